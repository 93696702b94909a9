//! What an agent may leave out because it takes it up from a template or the defaults, and what it may take away with `null`.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

/// The definitions of what stands under an agent, as far as mappings reach: what stands in a list is replaced as a whole.
const AGENT: [&str; 2] = ["Agent", "Defaults"];

/// What in a record says that something must be there: no record has forms beside its fields otherwise.
const ASKING: [&str; 4] = ["required", "if", "then", "anyOf"];

/// Lets each field of an agent be missing or `null` where another layer has it. What an agent must have is asked for where the
/// file has no defaults and the agent no template.
pub(super) fn relax(schema: &mut Value) {
    let Some(definitions) = schema.get("$defs").and_then(Value::as_object).cloned() else { return };
    let whole = required(&definitions, &json!({"$ref": "#/$defs/Agent"}));
    let mut reached = BTreeSet::new();
    for root in AGENT {
        reach(&definitions, root, &mut reached);
    }
    for name in reached {
        if let Some(Value::Object(record)) = schema.pointer_mut(&format!("/$defs/{name}")) {
            loosen(record);
        }
    }
    let Some(fields) = schema.as_object_mut() else { return };
    let agent = json!({"if": {"required": ["from"]}, "else": whole});
    fields.insert("if".into(), json!({"required": ["defaults"]}));
    fields.insert("else".into(), json!({"properties": {"agents": {"additionalProperties": agent}}}));
}

/// The definition that a field refers to, whether or not the field may be blank.
fn referred(field: &Value) -> Option<&str> {
    let own = field.get("$ref").and_then(Value::as_str);
    let one_of = || field.get("anyOf")?.as_array()?.iter().find_map(|form| form.get("$ref")?.as_str());
    own.or_else(one_of)?.strip_prefix("#/$defs/")
}

fn fields_of(record: &Value) -> impl Iterator<Item = (&String, &Value)> {
    record.get("properties").and_then(Value::as_object).into_iter().flatten()
}

fn reach(definitions: &Map<String, Value>, name: &str, reached: &mut BTreeSet<String>) {
    let Some(record) = definitions.get(name) else { return };
    // Forms of one value, as in a list of either, are no mapping that is merged.
    if record.get("properties").is_none() || !reached.insert(name.to_owned()) {
        return;
    }
    for (_, field) in fields_of(record) {
        let entries = field.get("additionalProperties").and_then(referred);
        for name in referred(field).into_iter().chain(entries) {
            reach(definitions, name, reached);
        }
    }
}

/// What of a schema says that something must be there.
fn required(definitions: &Map<String, Value>, schema: &Value) -> Value {
    let record = referred(schema).and_then(|name| definitions.get(name)).unwrap_or(schema);
    let mut asked = Map::new();
    for word in ASKING {
        asked.extend(record.get(word).map(|said| (word.to_owned(), said.clone())));
    }
    let mut fields = Map::new();
    for (key, field) in fields_of(record) {
        let inside = match field.get("additionalProperties").filter(|entries| referred(entries).is_some()) {
            Some(entries) => match required(definitions, entries) {
                Value::Object(inside) if inside.is_empty() => continue,
                inside => json!({"additionalProperties": inside}),
            },
            None if referred(field).is_some() => required(definitions, field),
            None => continue,
        };
        if inside.as_object().is_some_and(|inside| !inside.is_empty()) {
            fields.insert(key.clone(), inside);
        }
    }
    if !fields.is_empty() {
        asked.insert("properties".to_owned(), fields.into());
    }
    asked.into()
}

fn loosen(record: &mut Map<String, Value>) {
    for word in ASKING {
        record.remove(word);
    }
    let fields = record.get_mut("properties").and_then(Value::as_object_mut);
    for (_, field) in fields.into_iter().flatten() {
        let entries = |form: &mut Value| {
            if let Some(entries) = form.get_mut("additionalProperties").filter(|entries| entries.is_object()) {
                allow_null(entries);
            }
        };
        entries(field);
        field.get_mut("anyOf").and_then(Value::as_array_mut).into_iter().flatten().for_each(entries);
        allow_null(field);
    }
}

fn allow_null(schema: &mut Value) {
    let Some(fields) = schema.as_object_mut() else { return };
    // What is no string matches every pattern.
    if let Some(Value::Object(not)) = fields.get_mut("not") {
        not.insert("type".to_owned(), "string".into());
    }
    let blank = json!({"type": "null"});
    if let Some(types) = fields.get_mut("type") {
        match types {
            Value::Array(types) if !types.contains(&"null".into()) => types.push("null".into()),
            Value::Array(_) => {}
            only => *only = json!([only.clone(), "null"]),
        }
    } else if let Some(Value::Array(forms)) = fields.get_mut("anyOf") {
        if !forms.contains(&blank) {
            forms.push(blank);
        }
    } else if let Some(definition) = fields.remove("$ref") {
        fields.insert("anyOf".to_owned(), json!([{"$ref": definition}, blank]));
    }
}
