// What a script finds beside the language: the types of BSON, the event, and no clock, no chance, no console unless asked for. Evaluated
// before the script; gives the engine what it calls. `host` has what only the engine can do: load(part, tools), binary(origin),
// parseDecimal(text), decimalText(hex), and log(text) where texts may be logged.
(function (host) {
  "use strict";

  const { defineProperty, freeze, getPrototypeOf, seal } = Object;
  const KIND = Symbol("kind");
  const ORIGIN = Symbol("origin");
  const RealDate = Date;
  const realTime = RealDate.prototype.getTime;
  const asIntN = BigInt.asIntN;
  const toHex = Uint8Array.prototype.toHex;

  const types = {};
  // A type of BSON that JavaScript has not: its number in BSON is what the engine knows it by.
  function type(kind, bsontype, made) {
    if (!Object.hasOwn(made.prototype, KIND)) defineProperty(made.prototype, KIND, { value: kind });
    defineProperty(made.prototype, "_bsontype", { value: bsontype });
    defineProperty(globalThis, made.name, { value: made, writable: true, configurable: true });
    types[bsontype] = made;
  }
  function whole(value, least, most, what) {
    if (typeof value !== "number" || !(value >= least && value <= most) || value % 1 !== 0) {
      throw new TypeError(`${what} must be a whole number from ${least} to ${most}`);
    }
    return value;
  }

  type(0x07, "ObjectId", class ObjectId {
    constructor(hex) {
      if (hex instanceof ObjectId) hex = hex.hex;
      if (typeof hex !== "string" || !/^[0-9a-fA-F]{24}$/.test(hex)) {
        throw new TypeError("ObjectId takes a text of 24 hexadecimal digits");
      }
      this.hex = hex.toLowerCase();
      freeze(this);
    }
    toHexString() { return this.hex; }
    toString() { return this.hex; }
    toJSON() { return this.hex; }
    equals(other) { return other instanceof ObjectId && other.hex === this.hex; }
    getTimestamp() { return new RealDate(parseInt(this.hex.slice(0, 8), 16) * 1000); }
  });
  type(0x11, "Timestamp", class Timestamp {
    constructor({ t, i }) {
      this.t = whole(t, 0, 0xffffffff, "t of a Timestamp");
      this.i = whole(i, 0, 0xffffffff, "i of a Timestamp");
      freeze(this);
    }
    toString() { return `${this.t}.${this.i}`; }
    equals(other) { return other instanceof Timestamp && other.t === this.t && other.i === this.i; }
  });
  type(0x13, "Decimal128", class Decimal128 {
    constructor(text) {
      this.bytes = host.parseDecimal(String(text));
      freeze(this);
    }
    toString() { return host.decimalText(this.bytes); }
    toJSON() { return this.toString(); }
    equals(other) { return other instanceof Decimal128 && other.bytes === this.bytes; }
  });
  type(0x05, "Binary", class Binary {
    // Read when it is asked for; until then it is what the engine knows it by.
    #buffer;
    constructor(buffer, subtype = 0) {
      if (buffer !== undefined && !(buffer instanceof Uint8Array)) throw new TypeError("Binary takes a Uint8Array");
      this.#buffer = buffer ?? new Uint8Array(0);
      this.subtype = whole(subtype, 0, 255, "the subtype of a Binary");
    }
    static [KIND](subtype) {
      const made = new Binary(undefined, subtype);
      made.#buffer = undefined;
      return made;
    }
    get [KIND]() { return this.#buffer === undefined ? 0x100 : 0x05; }
    get buffer() { return (this.#buffer ??= host.binary(this[ORIGIN])); }
    length() { return this.buffer.length; }
    toHex() { return toHex.call(this.buffer); }
    toString() { return this.toHex(); }
    toJSON() { return this.toHex(); }
  });
  type(0x0b, "BSONRegExp", class BSONRegExp {
    constructor(pattern, options = "") {
      this.pattern = String(pattern);
      this.options = String(options);
      freeze(this);
    }
    toString() { return `/${this.pattern}/${this.options}`; }
  });
  type(0x10, "Int32", class Int32 {
    constructor(value) {
      this.value = whole(Number(value), -0x80000000, 0x7fffffff, "an Int32");
      freeze(this);
    }
    valueOf() { return this.value; }
    toString() { return String(this.value); }
  });
  type(0x12, "Long", class Long {
    constructor(value) {
      this.value = BigInt(value);
      if (!fits(this.value)) throw new RangeError("a Long has 64 bits");
      freeze(this);
    }
    valueOf() { return this.value; }
    toString() { return String(this.value); }
  });
  type(0x01, "Double", class Double {
    constructor(value) {
      this.value = Number(value);
      freeze(this);
    }
    valueOf() { return this.value; }
    toString() { return String(this.value); }
  });
  type(0xff, "MinKey", class MinKey {});
  type(0x7f, "MaxKey", class MaxKey {});

  // Values that a script can only pass on: old types, texts that are not UTF-8, documents with a name twice.
  class Opaque {
    constructor(bsontype) {
      defineProperty(this, "_bsontype", { value: bsontype });
    }
  }
  defineProperty(Opaque.prototype, KIND, { value: 0x100 });

  function fits(value) { return asIntN(64, value) === value; }

  // What the engine writes a value as: the number of a BSON type, 3 for a plain object, 0 for what has no form.
  function kindOf(value) {
    const kind = value[KIND];
    if (kind !== undefined) return kind;
    if (value instanceof RealDate) return 0x09;
    if (value instanceof Uint8Array) return 0x205;
    const prototype = getPrototypeOf(value);
    return prototype === Object.prototype || prototype === null ? 0x03 : 0;
  }
  // A value that the engine read.
  function make(kind, a, b) {
    switch (kind) {
      case 0x05: return types.Binary[KIND](a);
      case 0x07: return new types.ObjectId(a);
      case 0x09: return new RealDate(a);
      case 0x0b: return new types.BSONRegExp(a, b);
      case 0x11: return new types.Timestamp({ t: a, i: b });
      case 0x13: {
        const made = Object.create(types.Decimal128.prototype);
        made.bytes = a;
        return freeze(made);
      }
      case 0xff: return new types.MinKey();
      case 0x7f: return new types.MaxKey();
      default: return new Opaque(a);
    }
  }
  const tools = freeze({
    origin: ORIGIN, kindOf, make, fits,
    time: (date) => realTime.call(date),
    hex: (bytes) => toHex.call(bytes),
  });

  // The event. One object for all of them: what it shows is what the engine gave last.
  const PARTS = ["key", "after", "before", "update", "raw"];
  let facts, members, has, loaded, assigned, values;
  const event = {};
  for (const name of ["op", "ns", "to"]) {
    defineProperty(event, name, { enumerable: true, get: () => members[name], set: (value) => { members[name] = value; } });
  }
  PARTS.forEach((name, i) => {
    const bit = 1 << i;
    const get = () => {
      if ((has & bit) === 0) return undefined;
      if ((loaded & bit) === 0) {
        values[i] = host.load(i, tools);
        loaded |= bit;
      }
      return values[i];
    };
    const set = name === "raw" ? undefined : (value) => {
      values[i] = value;
      has |= bit;
      loaded |= bit;
      assigned |= bit;
    };
    defineProperty(event, name, { enumerable: name !== "raw", get, set });
  });
  const read = {
    id: () => facts.id,
    time: () => new types.Timestamp(facts),
    wall: () => (facts.wall === null ? undefined : new RealDate(facts.wall)),
    txn: () => (facts.number === null ? undefined : { lsid: host.load(PARTS.length, tools), number: facts.number }),
  };
  for (const name of Object.keys(read)) defineProperty(event, name, { enumerable: true, get: read[name] });
  seal(event);

  // Without what differs from run to run.
  function clock() {
    throw new Error("a script has no clock: take event.wall");
  }
  function ScriptDate(...parts) {
    if (new.target === undefined || parts.length === 0) clock();
    return Reflect.construct(RealDate, parts, new.target === ScriptDate ? RealDate : new.target);
  }
  ScriptDate.prototype = RealDate.prototype;
  ScriptDate.UTC = RealDate.UTC;
  ScriptDate.parse = RealDate.parse;
  ScriptDate.now = clock;
  RealDate.prototype.constructor = ScriptDate;
  defineProperty(ScriptDate, "name", { value: "Date" });
  globalThis.Date = ScriptDate;
  // Nothing waits: what a promise or a task would do later is never done.
  delete globalThis.queueMicrotask;
  Math.random = () => {
    throw new Error("a script has no random numbers: an event that comes again must become the same");
  };
  const say = host.log
    ? (...all) => host.log(all.map((one) => (typeof one === "string" ? one : JSON.stringify(one, (_, v) => (typeof v === "bigint" ? String(v) : v)) ?? String(one))).join(" "))
    : () => {};
  globalThis.console = { log: say, info: say, warn: say, error: say, debug: say };

  // What came back that is no event.
  function described(value) {
    if (value === undefined) return "nothing: is a `return event` missing?";
    if (Array.isArray(value)) return "an array: an event cannot become several";
    if (value instanceof Promise) return "a promise: it must not be async";
    if (typeof value === "object") return "another object: change the event that it is given, and return that";
    return `a ${typeof value}`;
  }

  // One event. True: it goes on as it is; null: it is left out; a text: what came back instead of it; an array: what it is now.
  function run(transform, op, ns, to, parts, id, t, i, wall, number) {
    facts = { id, t, i, wall, number };
    members = { op, ns, to };
    has = parts;
    loaded = assigned = 0;
    values = [];
    const out = transform(event);
    if (out === null) return null;
    if (out !== event) return described(out);
    if (loaded === 0 && members.op === op && members.ns === ns && members.to === to) return true;
    return [members.op, members.ns, members.to, loaded, assigned, values];
  }
  return { tools, run };
});
