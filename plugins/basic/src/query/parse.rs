//! From the document of a query to its tree. What mongod refuses is refused, and what only mongod can do as well.

use std::str;

use oplogue_api::{
    bson::spec::ElementType,
    closest,
    raw::{Element, Elements, Value},
};

use super::{
    node::Node,
    operands,
    path::{Leaf, Path},
    pcre,
    predicate::{Comparison, Operand, Predicate},
    text::DEEPEST,
    wrong::{Place, Wrong},
};

type Parsed<T = Node> = Result<T, Wrong>;

/// Operators that combine whole queries.
const LOGICAL: &[&str] = &["$and", "$or", "$nor", "$comment", "$alwaysTrue", "$alwaysFalse"];
/// Operators below a field.
const OPERATORS: &[&str] = &[
    "$eq",
    "$ne",
    "$gt",
    "$gte",
    "$lt",
    "$lte",
    "$in",
    "$nin",
    "$not",
    "$exists",
    "$type",
    "$mod",
    "$regex",
    "$options",
    "$all",
    "$elemMatch",
    "$size",
    "$bitsAllSet",
    "$bitsAllClear",
    "$bitsAnySet",
    "$bitsAnyClear",
];
/// What is left to servers, and why.
const SERVERS_ONLY: &[(&str, &str)] = &[
    ("$where", "it runs JavaScript"),
    ("$expr", "it holds an aggregation expression"),
    ("$text", "it needs a text index"),
    ("$jsonSchema", "it is a language of its own"),
    ("$sampleRate", "it is random"),
    ("$near", "it needs geometry"),
    ("$nearSphere", "it needs geometry"),
    ("$geoNear", "it needs geometry"),
    ("$geoWithin", "it needs geometry"),
    ("$within", "it needs geometry"),
    ("$geoIntersects", "it needs geometry"),
];

/// The place itself would fill pages.
pub(super) fn too_deep<T>() -> Parsed<T> {
    let what = format!("the query is nested deeper than {DEEPEST} levels");
    Err(Wrong { at: String::new(), what, hint: "write it flatter".into() })
}

pub(super) fn damaged(place: &Place<'_>) -> Wrong {
    Wrong { at: place.to_string(), what: "the BSON of the query is damaged".into(), hint: "write it anew".into() }
}

pub(super) fn name_of<'a>(element: &Element<'a>, place: &Place<'_>) -> Parsed<&'a str> {
    str::from_utf8(element.name).map_err(|_| damaged(place))
}

/// The elements of a document or array; an error where it is damaged.
pub(super) fn all<'a>(elements: Elements<'a>, place: &Place<'_>) -> Parsed<Vec<Element<'a>>> {
    elements.map(|element| element.map_err(|_| damaged(place))).collect()
}

/// A whole query.
pub(super) fn query(document: Elements<'_>, place: &Place<'_>) -> Parsed {
    if place.depth() > DEEPEST {
        return too_deep();
    }
    let mut nodes = Vec::new();
    for element in all(document, place)? {
        let name = name_of(&element, place)?;
        let here = place.field(name);
        match name {
            "$and" => nodes.extend(branches(&element, &here)?),
            "$or" => nodes.push(Node::Or(branches(&element, &here)?)),
            "$nor" => nodes.push(Node::Not(Box::new(Node::Or(branches(&element, &here)?)))),
            "$comment" => {}
            "$alwaysTrue" | "$alwaysFalse" => {
                if operands::whole(element.value) != Some(1) {
                    return here.wrong(format!("`{name}` takes nothing but 1"), format!("write {{ \"{name}\" = 1 }}"));
                }
                nodes.push(Node::Constant(name == "$alwaysTrue"));
            }
            // The fields of a reference.
            "$ref" | "$id" | "$db" => nodes.push(equality(Path::new(name), element.value, &here)?),
            name if name.starts_with('$') => return here.wrong(not_here(name, true).0, not_here(name, true).1),
            name => nodes.push(field(name, element.value, &here)?),
        }
    }
    Ok(and(nodes))
}

fn and(mut nodes: Vec<Node>) -> Node {
    match nodes.len() {
        1 => nodes.remove(0),
        _ => Node::And(nodes),
    }
}

/// What is wrong with an operator, and what would be right.
fn not_here(name: &str, top: bool) -> (String, String) {
    if let Some((_, why)) = SERVERS_ONLY.iter().find(|(other, _)| *other == name) {
        let hint = format!("{name} works on a server only: {why}. See docs/filter.md for what there is");
        return (format!("`{name}` is not supported"), hint);
    }
    let (own, others) = if top { (LOGICAL, OPERATORS) } else { (OPERATORS, LOGICAL) };
    if others.contains(&name) {
        return match (top, name) {
            (true, "$not") => {
                ("`$not` stands below a field".into(), "write \"$nor\" = [{ … }] for a whole query".into())
            }
            (true, _) => (
                format!("`{name}` stands below a field"),
                format!("write which one, such as {{ price = {{ \"{name}\" = … }} }}"),
            ),
            (false, _) => (
                format!("`{name}` combines whole queries and cannot stand below a field"),
                format!("write {{ \"{name}\" = [{{ price = … }}, {{ price = … }}] }}"),
            ),
        };
    }
    let hint = match closest(name, own.iter().copied()) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("there are {}", own.join(", ")),
    };
    (format!("there is no operator `{name}`"), hint)
}

fn branches(element: &Element<'_>, place: &Place<'_>) -> Parsed<Vec<Node>> {
    let name = name_of(element, place)?;
    let hint = || format!("write {{ \"{name}\" = [{{ a = 1 }}, {{ b = 2 }}] }}");
    let Some(list) = list(element.value) else {
        return place.wrong(format!("`{name}` takes a list of queries"), hint());
    };
    let list = all(list, place)?;
    if list.is_empty() {
        return place.wrong(format!("the list of `{name}` is empty"), hint());
    }
    let mut nodes = Vec::new();
    for (n, branch) in list.iter().enumerate() {
        let here = place.index(n);
        match document(branch.value) {
            Some(inner) => nodes.push(query(inner, &here)?),
            None => return here.wrong(format!("an entry of `{name}` is no query"), hint()),
        }
    }
    Ok(nodes)
}

pub(super) fn list(value: Value<'_>) -> Option<Elements<'_>> {
    value.elements().filter(|_| value.kind() == Some(ElementType::Array))
}

pub(super) fn document(value: Value<'_>) -> Option<Elements<'_>> {
    value.elements().filter(|_| value.kind() == Some(ElementType::EmbeddedDocument))
}

/// Whether a document holds operators: its first name begins with `$`, and it is no reference. Below `$elemMatch` a part of a
/// reference is enough to be one.
pub(super) fn is_operators(value: Value<'_>, part_of_reference: bool) -> bool {
    let Some(mut fields) = document(value) else { return false };
    let (mut first, mut reference, mut id, mut db) = (None, false, false, false);
    while let Some(Ok(field)) = fields.next() {
        first = first.or(Some(field.name.first() == Some(&b'$')));
        reference |= field.name == b"$ref";
        id |= field.name == b"$id";
        db |= field.name == b"$db";
        if reference && id {
            break;
        }
    }
    let is_reference = if part_of_reference { reference || id || db } else { reference && id };
    first == Some(true) && !is_reference
}

/// `{field: value}`, `{field: {$gt: …}}` or `{field: /…/}`.
fn field(name: &str, value: Value<'_>, place: &Place<'_>) -> Parsed {
    // A server takes no longer ones either.
    const MOST_STEPS: usize = 200;
    if Path::new(name).len() > MOST_STEPS {
        let what = format!("the path has more than {MOST_STEPS} steps");
        return Err(Wrong { at: String::new(), what, hint: "no document is nested so deep".into() });
    }
    if is_operators(value, false)
        && let Some(fields) = document(value)
    {
        return Ok(and(operators(name, fields, place)?));
    }
    if value.kind() == Some(ElementType::RegularExpression) {
        return Ok(on(name, Leaf::Elements, Predicate::Matches(pcre::pattern(value, place)?)));
    }
    equality(Path::new(name), value, place)
}

fn on(name: &str, leaf: Leaf, predicate: Predicate) -> Node {
    Node::Field { path: Path::new(name), leaf, predicate }
}

fn equality(path: Path, value: Value<'_>, place: &Place<'_>) -> Parsed {
    let predicate = Predicate::Compare(Comparison::Equal, operand(value, place)?);
    Ok(Node::Field { path, leaf: Leaf::Elements, predicate })
}

pub(super) fn operand(value: Value<'_>, place: &Place<'_>) -> Parsed<Operand> {
    if value.kind() == Some(ElementType::Undefined) {
        return place.wrong("nothing is compared with `undefined`", "write null, or { \"$type\" = \"undefined\" }");
    }
    let operand = Operand::new(value).ok_or_else(|| damaged(place))?;
    // Finds damage and endless nesting here and not with every event.
    match operand.value().and_then(|value| oplogue_api::order::compare(value, value)) {
        Ok(_) => Ok(operand),
        Err(_) => Err(damaged(place)),
    }
}

/// `{$gt: …, $lt: …}` below a field.
fn operators(name: &str, fields: Elements<'_>, place: &Place<'_>) -> Parsed<Vec<Node>> {
    if place.depth() > DEEPEST {
        return too_deep();
    }
    let context = all(fields, place)?;
    let mut nodes = Vec::new();
    for element in &context {
        let operator = name_of(element, place)?;
        let here = place.field(operator);
        nodes.extend(one(name, operator, element.value, &context, &here)?);
    }
    Ok(nodes)
}

fn not(node: Node) -> Node {
    Node::Not(Box::new(node))
}

fn one(
    name: &str,
    operator: &str,
    value: Value<'_>,
    context: &[Element<'_>],
    place: &Place<'_>,
) -> Parsed<Option<Node>> {
    let leaf = |t| on(name, Leaf::Elements, t);
    let whole = |t| on(name, Leaf::Whole, t);
    let compare = |comparison| -> Parsed { Ok(leaf(Predicate::Compare(comparison, operand(value, place)?))) };
    let is_regex = value.kind() == Some(ElementType::RegularExpression);
    if is_regex && matches!(operator, "$ne" | "$gt" | "$gte" | "$lt" | "$lte") {
        let hint = match operator {
            "$ne" => "write { \"$not\" = … } to leave out what it matches",
            _ => "write a text",
        };
        return place.wrong(format!("`{operator}` takes no regular expression"), hint);
    }
    Ok(Some(match operator {
        "$eq" => compare(Comparison::Equal)?,
        "$ne" => not(compare(Comparison::Equal)?),
        "$gt" => compare(Comparison::Greater)?,
        "$gte" => compare(Comparison::GreaterOrEqual)?,
        "$lt" => compare(Comparison::Less)?,
        "$lte" => compare(Comparison::LessOrEqual)?,
        "$in" => leaf(operands::one_of(operator, value, place)?),
        "$nin" => not(leaf(operands::one_of(operator, value, place)?)),
        "$exists" if operands::is_true(value) => leaf(Predicate::Exists),
        "$exists" => not(leaf(Predicate::Exists)),
        "$type" => leaf(Predicate::Type(operands::types(value, place)?)),
        "$mod" => leaf(operands::modulo(value, place)?),
        "$bitsAllSet" | "$bitsAllClear" | "$bitsAnySet" | "$bitsAnyClear" => {
            leaf(operands::bits(operator, value, place)?)
        }
        "$size" => whole(Predicate::Size(operands::size(value, place)?)),
        "$regex" => leaf(Predicate::Matches(pcre::pattern_of(context, place)?)),
        "$options" if context.iter().any(|e| e.name == b"$regex") => return Ok(None),
        "$options" => {
            return place
                .wrong("`$options` needs a `$regex` beside it", "write { \"$regex\" = \"^a\", \"$options\" = \"i\" }");
        }
        "$not" if is_regex => not(leaf(Predicate::Matches(pcre::pattern(value, place)?))),
        "$not" => match document(value) {
            Some(fields) if fields.clone().next().is_some() => not(Node::And(operators(name, fields, place)?)),
            _ => {
                return place.wrong(
                    "`$not` takes operators or a regular expression",
                    "write { \"$not\" = { \"$gt\" = 1 } }, or { \"$ne\" = 1 }",
                );
            }
        },
        "$all" => all_of(name, value, place)?,
        "$elemMatch" => elem_match(name, value, place)?,
        operator if operator.starts_with('$') => {
            let (what, hint) = not_here(operator, false);
            return place.wrong(what, hint);
        }
        field => {
            return place.wrong(
                format!("`{field}` is no operator, but stands among operators"),
                "write \"a.b\" for a field inside of a field, or { \"$eq\" = { … } } to compare a whole document",
            );
        }
    }))
}

/// What stands below `$elemMatch`, where that comes first.
fn elem_match_of(value: Value<'_>) -> Option<Value<'_>> {
    match document(value)?.next() {
        Some(Ok(first)) if first.name == b"$elemMatch" => Some(first.value),
        _ => None,
    }
}

fn all_of(name: &str, value: Value<'_>, place: &Place<'_>) -> Parsed {
    let Some(list) = list(value) else {
        return place.wrong("`$all` takes a list", "write { \"$all\" = [\"a\", \"b\"] }");
    };
    let list = all(list, place)?;
    let are_matches = list.first().is_some_and(|first| elem_match_of(first.value).is_some());
    let mut nodes = Vec::new();
    for (n, element) in list.iter().enumerate() {
        let here = place.index(n);
        let value = element.value;
        nodes.push(match elem_match_of(value) {
            Some(inner) if are_matches => elem_match(name, inner, &here.field("$elemMatch"))?,
            _ if are_matches => {
                return here
                    .wrong("`$all` takes either values or `$elemMatch`, not both", "put the others into an \"$and\"");
            }
            _ if is_operators(value, false) => {
                return here
                    .wrong("`$all` takes values, not operators", "write { \"$in\" = … }, or combine with \"$and\"");
            }
            _ if value.kind() == Some(ElementType::RegularExpression) => {
                on(name, Leaf::Elements, Predicate::Matches(pcre::pattern(value, &here)?))
            }
            _ => equality(Path::new(name), value, &here)?,
        });
    }
    // Of nothing, nothing has all.
    Ok(if nodes.is_empty() { Node::Constant(false) } else { and(nodes) })
}

fn elem_match(name: &str, value: Value<'_>, place: &Place<'_>) -> Parsed {
    let Some(fields) = document(value) else {
        return place.wrong(
            "`$elemMatch` takes a query or operators",
            "write { \"$elemMatch\" = { product = \"a\", price = { \"$gt\" = 1 } } }",
        );
    };
    let first = fields.clone().next().and_then(Result::ok).map(|e| e.name);
    let is_query = first.is_some_and(|first| {
        let of_queries = LOGICAL.iter().chain(&["$where", "$expr", "$text", "$jsonSchema", "$sampleRate"]);
        of_queries.into_iter().any(|known| known.as_bytes() == first)
    });
    let predicate = if is_operators(value, true) && !is_query {
        Predicate::ElementValue(Box::new(Node::And(operators("", fields, place)?)))
    } else {
        Predicate::ElementDocument(Box::new(query(fields, place)?))
    };
    Ok(on(name, Leaf::Whole, predicate))
}
