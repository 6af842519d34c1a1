//! Bounds on the values that a template makes.
//!
//! Fuel bounds what a template allocates. But lists share their items: sixty times `x = [x, x]` allocates sixty small
//! lists, and to print or compare the last of them takes for ever. So after every instruction that makes a value, the
//! compiled template is given one more that weighs it as if nothing were shared, and refuses what is too heavy or too
//! deeply nested. Namespaces, which alone can change after that, may not be put into other values.
//!
//! The instructions are reached through minijinja's unstable interface, hence the exact version in Cargo.toml.

use minijinja::machinery::{CodeGenerator, Instruction, Instructions, Token, parse, tokenize};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{Environment, Error, ErrorKind, State, Value};

/// Longest `{{ … }}` or `{% … %}`, in tokens. The compiler takes time that grows with the square of an expression's
/// length, and walks it by recursion; real templates stay below some hundred tokens.
const MAX_TAG_TOKENS: usize = 4000;

/// Levels of lists within lists. Values are walked by recursion.
const MAX_DEPTH: usize = 64;

/// Bytes of text that weigh as much as one item of a list.
const BYTES_PER_ITEM: usize = 64;

/// Items weighed for one unit of fuel.
const ITEMS_PER_FUEL: usize = 16;

/// Names of the added instructions, which no template can spell.
const BOUNDED: &str = "<bounded>";
const BOUNDED_NAMESPACE: &str = "<bounded-namespace>";
const BOUNDED_PART: &str = "<bounded-part>";

/// Does not look the filter up in the cache that the compiler has numbered.
const UNCACHED: u8 = u8::MAX;

/// Compiles `source` with the guards in place, which `environment` then has.
pub(super) fn compile<'s>(
    environment: &mut Environment<'s>,
    name: &'s str,
    source: &'s str,
    syntax: SyntaxConfig,
    max_weight: usize,
) -> Result<Instructions<'s>, Error> {
    check_tags(source, &syntax)?;
    let tree = parse(source, name, syntax)?;
    let mut generator = CodeGenerator::new(name, source);
    generator.compile_stmt(&tree);
    let (instructions, _) = generator.finish();
    environment.add_filter(BOUNDED, move |state: &State, value: Value| bounded(state, value, max_weight));
    environment.add_filter(BOUNDED_NAMESPACE, move |state: &State, value: Value| match is_namespace(&value) {
        true => bounded(state, value, max_weight),
        false => Ok(value),
    });
    environment.add_filter(BOUNDED_PART, move |state: &State, value: Value| match is_namespace(&value) {
        true => Err(namespace_within()),
        false => bounded(state, value, max_weight),
    });
    guarded(&instructions)
}

fn check_tags(source: &str, syntax: &SyntaxConfig) -> Result<(), Error> {
    let mut tokens = 0;
    // What the lexer does not understand, the parser reports.
    for (token, span) in tokenize(source, false, syntax.clone()).map_while(Result::ok) {
        tokens = if let Token::TemplateData(_) | Token::VariableEnd | Token::BlockEnd = token { 0 } else { tokens + 1 };
        if tokens > MAX_TAG_TOKENS {
            let what = format!("line {}: a tag of more than {MAX_TAG_TOKENS} tokens", span.start_line);
            return Err(Error::new(ErrorKind::SyntaxError, what));
        }
    }
    Ok(())
}

/// What goes before and after an instruction.
fn guards(at: &Instruction, next: Option<&Instruction>) -> (&'static [Instruction<'static>], Option<&'static str>) {
    use Instruction as I;
    const BEFORE_ASSIGNMENT: &[Instruction<'static>] =
        &[I::Swap, I::ApplyFilter(BOUNDED_PART, Some(1), UNCACHED), I::Swap];
    match at {
        I::BuildList(_) | I::BuildTuple(_) | I::BuildMap(_) | I::Add | I::Mul | I::Slice => (&[], Some(BOUNDED)),
        I::ApplyFilter(..) | I::CallFunction(..) | I::CallMethod(..) | I::CallObject(_) => (&[], Some(BOUNDED)),
        I::SetAttr(_) => (BEFORE_ASSIGNMENT, None),
        // A namespace whose attribute is meant need not be weighed.
        I::Lookup(_) if !matches!(next, Some(I::GetAttr(_) | I::SetAttr(_))) => (&[], Some(BOUNDED_NAMESPACE)),
        _ => (&[], None),
    }
}

/// The instructions with guards between them.
fn guarded<'s>(plain: &Instructions<'s>) -> Result<Instructions<'s>, Error> {
    let all: Vec<&Instruction> = (0..).map_while(|i| plain.get(i)).collect();
    let around = |i: usize| guards(all[i], all.get(i + 1).copied());
    // Where each instruction, with what goes before it, will stand; one past the end is a target too.
    let mut places = vec![0u32];
    for i in 0..all.len() {
        let (before, after) = around(i);
        places.push(places[i] + (before.len() + 1 + usize::from(after.is_some())) as u32);
    }
    let moved = |target: u32| {
        let lost = || Error::new(ErrorKind::InvalidOperation, "a jump leaves the template");
        places.get(target as usize).copied().ok_or_else(lost)
    };
    let mut result = Instructions::new(plain.name(), plain.source());
    for (i, instruction) in all.iter().enumerate() {
        let line = plain.get_line(i as u32).and_then(|line| u16::try_from(line).ok()).unwrap_or(u16::MAX);
        let (before, after) = around(i);
        for guard in before {
            result.add_with_line(guard.clone(), line);
        }
        let mut instruction = (*instruction).clone();
        use Instruction as I;
        if let I::Iterate(target)
        | I::Jump(target)
        | I::JumpIfFalse(target)
        | I::BuildMacro(_, target, _)
        | I::JumpIfFalseOrPop(target)
        | I::JumpIfTrueOrPop(target) = &mut instruction
        {
            *target = moved(*target)?;
        }
        result.add_with_line(instruction, line);
        if let Some(filter) = after {
            result.add_with_line(I::ApplyFilter(filter, Some(1), UNCACHED), line);
        }
    }
    Ok(result)
}

/// The value, if it is light enough. What is computed anew each time it is walked becomes a list.
fn bounded(state: &State, value: Value, max_weight: usize) -> Result<Value, Error> {
    if !matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable | ValueKind::Plain) {
        return Ok(value);
    }
    let mut left = max_weight;
    let items = weigh(&value, &mut left, MAX_DEPTH)?;
    state.consume_fuel(((max_weight - left) / ITEMS_PER_FUEL) as u64)?;
    Ok(if value.kind() == ValueKind::Iterable { Value::from(items) } else { value })
}

/// Takes the weight of `value` from `left`; returns the items that it iterates over.
fn weigh(value: &Value, left: &mut usize, depth: usize) -> Result<Vec<Value>, Error> {
    let heavy = || Error::new(ErrorKind::OutOfFuel, "a value is too large");
    let own = 1 + value.as_str().map_or(0, str::len) / BYTES_PER_ITEM;
    *left = left.checked_sub(own).ok_or_else(heavy)?;
    let mut items = Vec::new();
    if !matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable | ValueKind::Plain) {
        return Ok(items);
    }
    if depth == 0 {
        return Err(Error::new(ErrorKind::OutOfFuel, "a value is nested too deeply"));
    }
    // What cannot be iterated over is a macro, or the like.
    let Ok(iterator) = value.try_iter() else { return Ok(items) };
    for item in iterator {
        let entry = if value.kind() == ValueKind::Map { value.get_item(&item)? } else { Value::UNDEFINED };
        for part in [&item, &entry] {
            if is_namespace(part) {
                return Err(namespace_within());
            }
            weigh(part, left, depth - 1)?;
        }
        if value.kind() == ValueKind::Iterable {
            items.push(item);
        }
    }
    Ok(items)
}

fn namespace_within() -> Error {
    Error::new(ErrorKind::InvalidOperation, "a namespace may not be part of another value")
}

fn is_namespace(value: &Value) -> bool {
    value.as_object().is_some_and(|object| object.type_name().ends_with("::Namespace"))
}
