//! The engine: one QuickJS runtime with the script, in the thread that made it.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bson::{Decimal128, spec::ElementType};
use oplogue_api::{Change, Doc, Error, Event, Result, Verdict, raw::Value as Raw};
use rquickjs::{
    Array, CatchResultExt, CaughtError, Context, Ctx, Exception, Function, Object, Runtime, Value,
    context::{EvalOptions, intrinsic},
    function::Args,
};

use crate::{
    edit::{self, EDITABLE, Edited, Part},
    message::{Words, excerpt, place},
    options::Script,
    read::{Origins, Reader, Tools, hex, unhex},
    write::{Unwritable, Writer},
};

const PRELUDE: &str = include_str!("prelude.js");

/// The documents that a script may see: those that it may edit, what the server sent, the session.
const PARTS: usize = EDITABLE.len() + 2;
/// The place of `update` among them.
const UPDATE: usize = 3;

/// What it may take at most to read or write so many bytes, many times what it does.
pub fn for_bytes(bytes: usize) -> Duration {
    Duration::from_micros(2).saturating_mul(u32::try_from(bytes).unwrap_or(u32::MAX))
}

/// How deep calls may nest, in bytes of the stack.
const STACK: usize = 4 << 20;
/// The stack of the thread: that of the engine, and what reading and writing nested documents needs.
pub const THREAD_STACK: usize = 16 << 20;

/// What a sandbox is without: what differs from run to run.
type Intrinsics = (
    intrinsic::Date,
    intrinsic::Eval,
    intrinsic::RegExpCompiler,
    intrinsic::RegExp,
    intrinsic::Json,
    intrinsic::Proxy,
    intrinsic::MapSet,
    intrinsic::TypedArrays,
    intrinsic::Promise,
);

/// The CPU time of this thread. Unlike a clock on the wall it does not go on while others have the CPU.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// A limit that was run into. The engine cannot be trusted to be as it was, and is made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    Time,
    Memory,
    /// Nobody waits for the answer any more.
    Cancelled,
}

/// Between the engine and whoever waits for it.
#[derive(Default)]
pub struct Pulse {
    /// Nobody waits any longer.
    pub cancelled: AtomicBool,
    /// How often the engine has asked whether it must stop: it gets on, however slowly.
    pub beats: AtomicU64,
}

/// What is shared with the interrupt handler and the functions of the host.
struct Shared {
    deadline: Cell<Duration>,
    hit: Cell<Option<Limit>>,
    pulse: RefCell<Arc<Pulse>>,
    origins: RefCell<Origins>,
    /// The documents of the event; `update` only once it was asked for.
    parts: RefCell<[Option<Doc>; PARTS]>,
    change: RefCell<Option<Change>>,
}

impl Shared {
    /// A document of the event, if it has it and it can be decoded.
    fn part(&self, i: usize) -> Option<Doc> {
        let known = self.parts.borrow().get(i).cloned().flatten();
        if known.is_some() || i != UPDATE {
            return known;
        }
        let update = edit::update_of(self.change.borrow().as_ref()?).ok();
        self.parts.borrow_mut()[UPDATE].clone_from(&update);
        update
    }
    /// Whether the script must stop.
    fn interrupts(&self) -> bool {
        let pulse = self.pulse.borrow();
        pulse.beats.fetch_add(1, Ordering::Relaxed);
        if pulse.cancelled.load(Ordering::Relaxed) {
            self.hit.set(Some(Limit::Cancelled));
        } else if cpu_time() > self.deadline.get() {
            self.hit.set(Some(Limit::Time));
        }
        self.hit.get().is_some()
    }
}

/// The engine with the script loaded.
pub struct Sandbox<'js> {
    ctx: Ctx<'js>,
    script: Arc<Script>,
    words: Arc<Words>,
    shared: Rc<Shared>,
    tools: Tools<'js>,
    run: Function<'js>,
    transform: Function<'js>,
}

/// Makes an engine, loads the script, and lives as long as `work` does.
///
/// # Errors
/// `Operator`, naming the option, when the script is no good.
pub fn with<R>(script: &Arc<Script>, words: &Arc<Words>, work: impl FnOnce(&Sandbox<'_>) -> R) -> Result<R> {
    let broken = |e: rquickjs::Error| Error::bug(format!("the script engine cannot be started: {e}"));
    let runtime = Runtime::new().map_err(broken)?;
    runtime.set_memory_limit(script.memory);
    runtime.set_max_stack_size(STACK);
    let shared = Rc::new(Shared {
        // Loading has more time: it is done once.
        deadline: Cell::new(cpu_time() + script.time.max(Duration::from_secs(1))),
        hit: Cell::new(None),
        pulse: RefCell::default(),
        origins: RefCell::default(),
        parts: RefCell::default(),
        change: RefCell::default(),
    });
    let interrupting = Rc::clone(&shared);
    runtime.set_interrupt_handler(Some(Box::new(move || interrupting.interrupts())));
    let context = Context::builder().with::<Intrinsics>().build(&runtime).map_err(broken)?;
    context.with(|ctx| {
        let sandbox = load(&ctx, script, words, &shared)?;
        Ok(work(&sandbox))
    })
}

/// Evaluates prelude and script.
fn load<'js>(ctx: &Ctx<'js>, script: &Arc<Script>, words: &Arc<Words>, shared: &Rc<Shared>) -> Result<Sandbox<'js>> {
    let broken = |e: CaughtError<'_>| Error::bug(format!("the script engine cannot be started: {e}"));
    let options = |name: &str| {
        let mut options = EvalOptions::default();
        options.filename = Some(name.to_owned());
        options
    };
    let start = || -> rquickjs::Result<(Tools<'js>, Function<'js>)> {
        let prelude: Function<'js> = ctx.eval_with_options(PRELUDE, options("oplogue"))?;
        let made: Object<'js> = prelude.call((host(ctx, script, shared)?,))?;
        Ok((Tools::new(&made.get("tools")?)?, made.get("run")?))
    };
    let (tools, run) = start().catch(ctx).map_err(broken)?;
    let whole = || -> rquickjs::Result<Value<'js>> {
        ctx.eval_with_options::<(), _>(script.source.as_str(), options(&script.title))?;
        ctx.eval_with_options("typeof transform === 'function' ? transform : undefined", options("oplogue"))
    };
    let found = whole().map_err(|e| {
        let caught = CaughtError::from_error(ctx, e);
        let limit = shared.hit.get().or_else(|| memory(&caught));
        let message = match limit {
            Some(Limit::Memory) => format!("{}: loading it takes more than `memory`", script.title),
            Some(_) => format!("{}: loading it takes too long", script.title),
            None => loading(&caught, script),
        };
        Error::option(script.option, message)
    })?;
    let Some(transform) = found.into_function() else {
        let message = format!("{} defines no function `transform`", script.title);
        return Err(Error::option(script.option, message)
            .hint("write `function transform(event) { … return event; }`: see docs/script.md"));
    };
    Ok(Sandbox {
        ctx: ctx.clone(),
        script: Arc::clone(script),
        words: Arc::clone(words),
        shared: Rc::clone(shared),
        tools,
        run,
        transform,
    })
}

/// What is wrong with a script, and where. It has seen no event yet, so that nothing needs to be hidden.
fn loading(caught: &CaughtError<'_>, script: &Script) -> String {
    match caught {
        CaughtError::Exception(e) => {
            let what = e.message().unwrap_or_default();
            let name: Option<String> = e.as_object().get("name").ok();
            let what = match name.as_deref() {
                None | Some("SyntaxError" | "Error") => what,
                Some(name) => format!("{name}: {what}"),
            };
            match e.stack().and_then(|stack| place(&stack, &script.title)) {
                Some((line, column)) => {
                    let shown = excerpt(&script.source, (line, column));
                    format!("{}:{line}:{column}: {what}{shown}", script.title)
                }
                None => format!("{}: {what}", script.title),
            }
        }
        _ => format!("{}: it throws while it is loaded", script.title),
    }
}

/// Whether memory ran out. The engine has an error for it as long as it has memory for the error; then it throws null.
fn memory(caught: &CaughtError<'_>) -> Option<Limit> {
    let is_out = match caught {
        CaughtError::Exception(e) => e.message().is_some_and(|message| message == "out of memory"),
        CaughtError::Value(value) => value.is_null(),
        CaughtError::Error(e) => matches!(e, rquickjs::Error::Allocation),
    };
    is_out.then_some(Limit::Memory)
}

/// What only the engine can do, for the prelude.
fn host<'js>(ctx: &Ctx<'js>, script: &Script, shared: &Rc<Shared>) -> rquickjs::Result<Object<'js>> {
    let host = Object::new(ctx.clone())?;
    let events = Rc::clone(shared);
    let load = move |ctx: Ctx<'js>, part: usize, tools: Object<'js>| -> rquickjs::Result<Value<'js>> {
        let Some(document) = events.part(part) else {
            return Err(Exception::throw_type(&ctx, "this update cannot be decoded"));
        };
        // That a document is large is not the doing of the script; a setter of Object.prototype that does not end is.
        let (started, deadline) = (cpu_time(), events.deadline.get());
        events.deadline.set(deadline + for_bytes(document.as_bytes().len()));
        let tools = Tools::new(&tools)?;
        // A setter of the script on Object.prototype, or a proxy that it left in a document, may ask in the middle of another question.
        let Ok(mut origins) = events.origins.try_borrow_mut() else {
            return Err(Exception::throw_type(&ctx, "cannot read this in a getter or setter"));
        };
        let read = Reader { ctx: &ctx, tools: &tools, origins: &mut origins, document: &document }.root();
        events.deadline.set(deadline + (cpu_time() - started));
        read
    };
    host.set("load", Function::new(ctx.clone(), load)?)?;
    let events = Rc::clone(shared);
    let binary = move |ctx: Ctx<'js>, origin: f64| -> rquickjs::Result<rquickjs::TypedArray<'js, u8>> {
        let found = events.origins.try_borrow().ok().and_then(|origins| origins.get(origin as u32));
        let raw = found.as_ref().and_then(|(kind, bytes)| Raw::new(*kind, bytes).ok());
        match raw.and_then(|raw| raw.binary()) {
            Some((_, bytes)) => rquickjs::TypedArray::new_copy(ctx, bytes),
            None => Err(Exception::throw_type(&ctx, "a Binary must be read in the call that its event is given to")),
        }
    };
    host.set("binary", Function::new(ctx.clone(), binary)?)?;
    let parse = |ctx: Ctx<'js>, text: String| match text.parse::<Decimal128>() {
        Ok(decimal) => Ok(hex(&decimal.bytes())),
        Err(_) => Err(Exception::throw_type(&ctx, "Decimal128 takes a number as text")),
    };
    host.set("parseDecimal", Function::new(ctx.clone(), parse)?)?;
    let text = |text: String| unhex(&text).map(|bytes| Decimal128::from_bytes(bytes).to_string());
    host.set("decimalText", Function::new(ctx.clone(), text)?)?;
    if script.log {
        let name = script.name.clone();
        let log = move |text: String| {
            let text: String = text.chars().take(1000).collect();
            tracing::debug!(transform = name, text, "a script says");
        };
        host.set("log", Function::new(ctx.clone(), log)?)?;
    }
    Ok(host)
}

impl<'js> Sandbox<'js> {
    /// Gives an event to the script.
    ///
    /// # Errors
    /// The limit that it ran into.
    pub fn pass(&self, event: &Event, pulse: &Arc<Pulse>) -> std::result::Result<Verdict, Limit> {
        *self.shared.pulse.borrow_mut() = Arc::clone(pulse);
        self.shared.hit.set(None);
        self.shared.deadline.set(cpu_time() + self.script.time);
        self.shared.origins.borrow_mut().clear();
        let lsid = event.txn.as_ref().map(|txn| txn.lsid.clone());
        let raw = Some(event.raw.clone()).filter(|raw| *raw != Doc::empty());
        self.shared.parts.replace([event.key.clone(), event.after.clone(), event.before.clone(), None, raw, lsid]);
        self.shared.change.replace(event.change.clone());
        let outcome = self.call(event);
        // It would keep a whole reply of the server in memory.
        self.shared.parts.take();
        self.shared.change.take();
        self.shared.origins.borrow_mut().clear();
        outcome.or_else(|failed| self.bad(failed).map(Verdict::Bad))
    }

    fn call(&self, event: &Event) -> std::result::Result<Verdict, Failed> {
        let mut has: u32 =
            self.shared.parts.borrow().iter().enumerate().map(|(i, part)| u32::from(part.is_some()) << i).sum();
        has |= u32::from(event.change.is_some()) << UPDATE;
        let mut args = Args::new(self.ctx.clone(), 10);
        args.push_arg(self.transform.clone())?;
        args.push_arg(event.op.name())?;
        args.push_arg(event.ns.as_str())?;
        args.push_arg(event.to.as_ref().map(|to| to.as_str()))?;
        args.push_arg(has)?;
        args.push_arg(event.id().to_string())?;
        args.push_arg(f64::from(event.time.time))?;
        args.push_arg(f64::from(event.time.increment))?;
        args.push_arg(
            event.wall.map_or(Value::new_null(self.ctx.clone()), |ms| Value::new_number(self.ctx.clone(), ms as f64)),
        )?;
        args.push_arg(
            event.txn.as_ref().map_or(Value::new_null(self.ctx.clone()), |txn| {
                Value::new_number(self.ctx.clone(), txn.number as f64)
            }),
        )?;
        let out: Value<'js> = self.run.call_arg(args)?;
        if out.is_null() {
            return Ok(Verdict::Drop);
        }
        if let Some(what) = out.as_string() {
            return Ok(Verdict::Bad(
                Error::data(format!("{}: transform returned {}", self.script.title, what.to_string()?))
                    .hint("return the event to let it go on, or null to leave it out"),
            ));
        }
        let Some(state) = out.as_array() else { return Ok(Verdict::Keep) };
        // A proxy or a getter may run wild yet; what is large takes longer.
        self.shared.deadline.set(cpu_time() + self.script.time + for_bytes(event.size()));
        let text = |i: usize, name: &str| -> std::result::Result<Option<String>, Failed> {
            let value: Value<'js> = state.get(i)?;
            match value.as_string() {
                Some(text) => Ok(Some(text.to_string()?)),
                None if value.is_null() || value.is_undefined() => Ok(None),
                None => Err(Failed::Told(Error::data(format!("`{name}` is set to what is no text")))),
            }
        };
        let needed = |i: usize, name: &str| {
            text(i, name)?.ok_or_else(|| Failed::Told(Error::data(format!("`{name}` is set to what is no text"))))
        };
        let (op, ns, to) = (needed(0, "op")?, needed(1, "ns")?, text(2, "to")?);
        let (loaded, assigned): (u32, u32) = (state.get(3)?, state.get(4)?);
        let values: Array<'js> = state.get(5)?;
        let part = |i: usize| -> std::result::Result<Part, Failed> {
            if loaded & (1 << i) == 0 {
                return Ok(Part::Same);
            }
            let value: Value<'js> = values.get(i)?;
            if value.is_null() || value.is_undefined() {
                return Ok(if has & (1 << i) == 0 { Part::Same } else { Part::Removed });
            }
            let was = self.shared.part(i);
            let origins = self.shared.origins.borrow();
            let mut writer = Writer { tools: &self.tools, origins: &origins, out: Vec::new() };
            let old = was.as_ref().and_then(|was| Raw::new(ElementType::EmbeddedDocument, was.as_bytes()).ok());
            writer.document(&value, old).map_err(|e| Failed::Unwritable(EDITABLE[i], e))?;
            if was.as_ref().is_some_and(|was| was.as_bytes() == writer.out) {
                return Ok(if assigned & (1 << i) == 0 { Part::Same } else { Part::Kept });
            }
            Ok(Part::New(Doc::new(writer.out.into()).map_err(Failed::Told)?))
        };
        let parts = [part(0)?, part(1)?, part(2)?, part(3)?];
        edit::settle(event, Edited { op, ns, to, parts }).map_err(Failed::Told)
    }

    /// Why an event is bad, unless it ran into a limit.
    fn bad(&self, failed: Failed) -> std::result::Result<Error, Limit> {
        let title = &self.script.title;
        let thrown = match failed {
            Failed::Told(e) => return Ok(e.at(title)),
            Failed::Unwritable(part, Unwritable::Value(what, path)) => {
                let path: String = path.iter().map(|name| format!(".{name}")).collect();
                let message = format!("{title}: `{part}{}`: {what}", self.words.shown(&path));
                return Ok(Error::data(message).hint("see docs/script.md for what becomes of values"));
            }
            Failed::Unwritable(_, Unwritable::Thrown) => rquickjs::Error::Exception,
            Failed::Thrown(e) => e,
        };
        let caught = CaughtError::from_error(&self.ctx, thrown);
        if let Some(limit) = self.shared.hit.get().or_else(|| memory(&caught)) {
            return Err(limit);
        }
        let (message, stack) = match &caught {
            CaughtError::Exception(e) => {
                let name: String = e.as_object().get("name").unwrap_or_default();
                let message = e.message().unwrap_or_default();
                (if name.is_empty() || name == "Error" { message } else { format!("{name}: {message}") }, e.stack())
            }
            CaughtError::Value(value) => match value.as_string().map(|text| text.to_string()) {
                Some(Ok(text)) => (text, None),
                _ => ("it threw what is no Error".to_owned(), None),
            },
            CaughtError::Error(_) => ("the engine failed".to_owned(), None),
        };
        if let Some(limit) = self.shared.hit.get() {
            return Err(limit);
        }
        let shown = self.words.shown(&message);
        let at = match stack.and_then(|stack| place(&stack, title)) {
            Some((line, column)) => format!("{title}:{line}:{column}"),
            None => title.clone(),
        };
        let e = Error::data(format!("{at}: {shown}"));
        Ok(if shown == message {
            e
        } else {
            e.hint("words that may come from a document are hidden; `log = true` shows them")
        })
    }
}

/// Why a call came to nothing.
enum Failed {
    /// An exception, or a limit.
    Thrown(rquickjs::Error),
    /// What it made has no form; of which part.
    Unwritable(&'static str, Unwritable),
    Told(Error),
}

impl From<rquickjs::Error> for Failed {
    fn from(e: rquickjs::Error) -> Failed {
        match e {
            rquickjs::Error::Utf8(_) => {
                Failed::Told(Error::data("a text with half of a surrogate pair is not Unicode"))
            }
            e => Failed::Thrown(e),
        }
    }
}
