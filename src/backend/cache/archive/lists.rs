//! The lists of images in an archive, reduced to the wanted one.

use serde_json::{Map, Value};

use super::{Lists, Refusal, damaged};
use crate::model::ImageRef;

/// The fields of this object that have these very names.
pub(super) fn fields(of: &Value, keys: &[&str]) -> Map<String, Value> {
    let field = |key: &&str| Some(((*key).to_owned(), of.get(*key)?.clone()));
    keys.iter().filter_map(field).collect()
}

/// The lists with nothing in them but the wanted image, without a name.
pub(super) fn only(lists: &Lists, wanted: &ImageRef) -> Result<Vec<(&'static str, Vec<u8>)>, Refusal> {
    let unreadable = |name: &str, why: &dyn std::fmt::Display| damaged(format!("its {name} cannot be read: {why}"));
    if let Some(text) = &lists.docker {
        let images: Vec<Value> = serde_json::from_slice(text).map_err(|err| unreadable("manifest.json", &err))?;
        let names = images.iter().map(|image| tags_of(image).collect());
        let image = &images[pick(names.collect(), wanted)?];
        if !image.is_object() {
            return Err(unreadable("manifest.json", &"it lists no images"));
        }
        let mut image = fields(image, &["Config", "Layers"]);
        image.insert("RepoTags".to_owned(), Value::Null);
        return Ok(vec![("manifest.json", Value::from(vec![Value::Object(image)]).to_string().into_bytes())]);
    }
    let Some(text) = &lists.oci else { return Err(damaged("it has neither manifest.json nor index.json")) };
    let index: Value = serde_json::from_slice(text).map_err(|err| unreadable("index.json", &err))?;
    let Some(images) = index.get("manifests").and_then(Value::as_array) else {
        return Err(unreadable("index.json", &"it lists no manifests"));
    };
    let names: Vec<_> = images.iter().map(annotated_name).collect();
    // The only one is meant whatever it is called: most builders write a tag alone, or nothing.
    let at = match names.len() {
        1 => 0,
        _ => pick(names.into_iter().map(|name| name.into_iter().collect()).collect(), wanted)?,
    };
    let image = fields(&images[at], &["mediaType", "digest", "size", "platform"]);
    let mut index = fields(&index, &["schemaVersion", "mediaType"]);
    index.insert("manifests".to_owned(), Value::from(vec![Value::Object(image)]));
    let index = Value::Object(index);
    let layout = lists.layout.as_ref().map(|layout| ("oci-layout", layout.to_vec()));
    Ok(layout.into_iter().chain([("index.json", index.to_string().into_bytes())]).collect())
}

pub(super) fn tags_of(image: &Value) -> impl Iterator<Item = &str> {
    image.get("RepoTags").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

pub(super) fn annotated_name(image: &Value) -> Option<&str> {
    let annotations = image.get("annotations")?;
    let name = |key: &str| annotations.get(key)?.as_str();
    name("io.containerd.image.name").or_else(|| name("org.opencontainers.image.ref.name"))
}

/// Which of an archive's images is the wanted one, by the names of each: the one that is called so, else the only one when it
/// has no name.
pub(super) fn pick(names: Vec<Vec<&str>>, wanted: &ImageRef) -> Result<usize, Refusal> {
    let exact = |name: &&str| ImageRef::new(*name).is_ok_and(|name| name.qualified() == *wanted);
    let called = names.iter().position(|names| names.iter().any(exact));
    let called = called.or_else(|| names.iter().position(|names| names.iter().any(|name| names_image(name, wanted))));
    match (called, names.as_slice()) {
        (Some(at), _) => Ok(at),
        (None, [none]) if none.is_empty() => Ok(0),
        _ => Err(Refusal::Other(names.into_iter().flatten().map(str::to_owned).collect())),
    }
}

/// Whether a name that stands in an archive may mean this image. A short one is Docker's for its hub, and the one that
/// Podman puts `localhost/` before.
pub fn names_image(name: &str, wanted: &ImageRef) -> bool {
    let Ok(name) = ImageRef::new(name) else { return false };
    let full = name.qualified();
    full == *wanted || full != name && wanted.as_str().strip_prefix("localhost/") == Some(name.as_str())
}
