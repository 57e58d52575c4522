use oplogue_api::{
    Result,
    bson::spec::ElementType,
    raw::{Elements, Value},
};

/// The path of a field, cut at its dots.
pub(super) struct Path {
    steps: Vec<Step>,
}

struct Step {
    name: Box<[u8]>,
    /// Only digits: it may be an index of an array as well as a name.
    is_index: bool,
}

/// What becomes of an array at the end of a path.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaf {
    /// Its elements one by one, and then itself.
    Elements,
    /// It stands for itself.
    Whole,
}

/// Takes a value that a path leads to, or nothing where a document ends before the path does. `true` ends the search.
type Visit<'v, 'd> = &'v mut dyn FnMut(Option<Value<'d>>) -> Result<bool>;

impl Path {
    pub fn new(dotted: &str) -> Path {
        let step =
            |name: &str| Step { is_index: name.bytes().all(|b| b.is_ascii_digit()), name: name.as_bytes().into() };
        Path { steps: dotted.split('.').map(step).collect() }
    }

    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether `visit` says `true` of anything that the path leads to in a document. Arrays on the way are gone through: the path
    /// leads into each document among their elements, and, where a step is a number, into the element of that index.
    pub fn any<'d>(&self, document: Elements<'d>, leaf: Leaf, visit: Visit<'_, 'd>) -> Result<bool> {
        in_document(document, &self.steps, leaf, visit)
    }
}

#[inline]
fn field<'d>(document: Elements<'d>, name: &[u8]) -> Result<Option<Value<'d>>> {
    for element in document {
        let element = element?;
        if element.name == name {
            return Ok(Some(element.value));
        }
    }
    Ok(None)
}

fn in_document<'d>(mut document: Elements<'d>, steps: &[Step], leaf: Leaf, visit: Visit<'_, 'd>) -> Result<bool> {
    let mut rest = steps;
    while let Some((step, behind)) = rest.split_first() {
        rest = behind;
        let Some(value) = field(document, &step.name)? else { return visit(None) };
        match (value.kind(), value.elements()) {
            (Some(ElementType::Array), Some(array)) => return in_array(value, array, rest, leaf, visit),
            _ if rest.is_empty() => return visit(Some(value)),
            (_, Some(inner)) => document = inner,
            _ => return visit(None),
        }
    }
    Ok(false)
}

fn in_array<'d>(
    array: Value<'d>,
    elements: Elements<'d>,
    rest: &[Step],
    leaf: Leaf,
    visit: Visit<'_, 'd>,
) -> Result<bool> {
    // A dot at the very end of a path counts for nothing here.
    let Some((step, behind)) = rest.split_first().filter(|(step, behind)| !step.name.is_empty() || !behind.is_empty())
    else {
        if leaf == Leaf::Elements {
            for element in elements {
                if visit(Some(element?.value))? {
                    return Ok(true);
                }
            }
        }
        return visit(Some(array));
    };
    for element in elements {
        let element = element?;
        let (kind, inner) = (element.value.kind(), element.value.elements());
        if let (Some(ElementType::EmbeddedDocument), Some(inner)) = (kind, &inner)
            && in_document(inner.clone(), rest, leaf, visit)?
        {
            return Ok(true);
        }
        if !step.is_index || *step.name != *element.name {
            continue;
        }
        // An array that an index leads to stands for itself, whatever `leaf` says.
        let found = match (kind, inner) {
            _ if behind.is_empty() => visit(Some(element.value))?,
            (Some(ElementType::EmbeddedDocument), Some(inner)) => in_document(inner, behind, leaf, visit)?,
            (Some(ElementType::Array), Some(inner)) => in_array(element.value, inner, behind, leaf, visit)?,
            _ => false,
        };
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}
