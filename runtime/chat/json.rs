//! A conversation in JSON, as OpenAI's interface has it, turned into what templates look at.

use crate::{Error, Result};
use minijinja::Value;
use minijinja::value::ValueKind;

/// Messages in a conversation's JSON, and the variables that it sets.
pub(super) fn conversation(json: &str) -> Result<(usize, Value)> {
    let invalid = |what: &str| Error::InvalidArgument(format!("chat JSON: {what}"));
    let parsed: Value = serde_json::from_str(json).map_err(|e| invalid(&e.to_string()))?;
    let object = match parsed.kind() {
        ValueKind::Seq => Value::from_pairs([("messages", parsed)]),
        ValueKind::Map => parsed,
        _ => return Err(invalid("neither an array of messages nor an object with one")),
    };
    let messages = object.get_attr("messages").ok().filter(|messages| messages.kind() == ValueKind::Seq);
    let messages = messages.ok_or_else(|| invalid("no array \"messages\""))?;
    let count = messages.len().unwrap_or(0);
    if count == 0 {
        return Err(invalid("\"messages\" is empty"));
    }
    for i in 0..count {
        let role = messages.get_item_by_index(i).and_then(|message| message.get_attr("role"));
        if !role.is_ok_and(|role| role.kind() == ValueKind::String) {
            return Err(invalid(&format!("messages[{i}] has no string \"role\"")));
        }
    }
    Ok((count, object))
}
