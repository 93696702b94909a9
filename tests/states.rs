//! The state file as a whole: what is valid passes loader and schema, what is not fails with its full message, and the
//! generated schemas are fresh. Single rules are tested beside their code.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use steadfast::model::{Arch, HostKey};
use steadfast::state::{self, Context, Input, Loaded, StateError};

fn here() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Loads with a small, known environment.
fn load(input: &Input) -> Result<Loaded, StateError> {
    let vars = [
        ("HOME", "/home/u"),
        ("OPENCLAW_TOKEN", "canary-from-env"),
        ("DB_PASSWORD", "canary-two"),
        ("PORT", "8080"),
        ("MODEL_KEY", "model-key"),
    ];
    let vars: BTreeMap<_, _> = vars.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let key = |_: &Path| HostKey::from_bytes([7; 32]);
    state::load(input, &Context { vars, root: None, manifest_url: None, host_arch: Arch::X64, key: &key })
}

/// A file, named relative to the repository so that messages are the same everywhere.
fn read(path: &Path) -> Result<Input, StateError> {
    let mut input = state::read(path)?;
    input.name = path.strip_prefix(here()).unwrap_or(path).display().to_string();
    Ok(input)
}

/// All YAML files below a directory, sorted.
fn yaml_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(yaml_files(&path));
        } else if path.extension().is_some_and(|ext| ext == "yaml" || ext == "yml") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// What a schema says to a file; `None` when another YAML reader cannot make JSON of it.
fn schema_errors(text: &str) -> Option<Vec<String>> {
    let mut yaml: serde_yaml::Value = serde_yaml::from_str(text).ok()?;
    yaml.apply_merge().ok()?;
    let json = serde_json::to_value(yaml).ok()?;
    let validator = jsonschema::validator_for(&state::schema()).unwrap();
    Some(validator.iter_errors(&json).map(|err| format!("{}: {err}", err.instance_path())).collect())
}

#[test]
fn valid_files_pass_loader_and_schema() {
    let mut files = yaml_files(&here().join("tests/states/valid"));
    let examples = yaml_files(&here().join("examples"));
    // CI workflows and the like lie there too.
    files.extend(
        examples.into_iter().filter(|path| std::fs::read_to_string(path).unwrap().contains("\napiVersion: steadfast/")),
    );
    assert!(files.len() > 2, "found only {files:?}");
    for path in files {
        let input = read(&path).unwrap();
        if let Err(err) = load(&input) {
            panic!("the loader refuses {}:\n{}", path.display(), err.render(false));
        }
        assert_eq!(schema_errors(&input.text), Some(vec![]), "the schema refuses {}", path.display());
    }
}

/// What is wanted, but for where it stands.
fn meant(loaded: &Loaded) -> String {
    let desired = &loaded.desired;
    let agents: String = desired
        .agents
        .iter()
        .map(|(name, agent)| {
            let exposed: Vec<_> = agent.container.env.values().map(|value| value.expose()).collect();
            let place = format!("{:?}", agent.place);
            format!("{name}: {} {exposed:?}\n", format!("{agent:?}").replace(&place, ""))
        })
        .collect();
    format!(
        "{} {:?} {:?} {:?} {:?} {:?} {:?} {:?}\n{agents}",
        desired.name,
        desired.root,
        desired.manifest,
        desired.manifest_refresh,
        desired.cache,
        desired.runtime,
        loaded.env_files,
        loaded.warnings.len()
    )
}

/// As [`load`], and what it comes to.
fn expand(inputs: &[Input]) -> (Loaded, state::Config) {
    let vars =
        [("HOME", "/home/u"), ("OPENCLAW_TOKEN", "canary-from-env"), ("PORT", "8080"), ("MODEL_KEY", "model-key")];
    let vars: BTreeMap<_, _> = vars.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let key = |_: &Path| HostKey::from_bytes([7; 32]);
    let context = Context { vars, root: None, manifest_url: None, host_arch: Arch::X64, key: &key };
    state::expand(inputs, &context).unwrap_or_else(|err| panic!("{}", err.render(false)))
}

#[test]
fn what_files_come_to_means_what_they_mean() {
    let mut files = yaml_files(&here().join("tests/states/valid"));
    files.extend([
        here().join("examples/full.yaml"),
        here().join("examples/minimal.yaml"),
        here().join("src/state/starter.yaml"),
    ]);
    for path in files {
        let input = read(&path).unwrap();
        let said = schema_errors(&input.text);
        let (loaded, config) = expand(&[input]);
        for text in [config.yaml(), config.json().to_string()] {
            let name = path.display();
            assert!(
                !text.contains("canary") && !text.contains("${agent:") | text.contains("$${agent:"),
                "{name}:\n{text}"
            );
            assert!(!text.contains("templates") && !text.contains("\"from\""), "{name}:\n{text}");
            // From anywhere.
            let input = Input { name: "config.yaml".into(), text: text.clone(), dir: "/elsewhere".into() };
            let (again, same) = expand(&[input]);
            assert_eq!(meant(&again), meant(&loaded), "{name}:\n{text}");
            assert_eq!(same.json(), config.json(), "{name}: it is what it comes to itself");
            assert_eq!(schema_errors(&text), said, "{name}:\n{text}");
        }
    }
}

#[test]
fn the_starter_is_valid() {
    let starter = state::starter(&state::name_after(Path::new("/srv")));
    let input = Input { name: "steadfast.yaml".into(), text: starter.clone(), dir: "/srv".into() };
    let loaded = load(&input).unwrap_or_else(|err| panic!("{}", err.render(false)));
    assert_eq!(loaded.desired.agents.len(), 1);
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    assert_eq!(schema_errors(&starter), Some(vec![]));
}

/// Files whose fault a schema cannot see: it is in other files, in the environment, or between two agents.
const BEYOND_SCHEMAS: [&str; 9] = [
    "env-file-directory",
    "env-file-malformed",
    "env-file-missing",
    "manifest-refresh",
    "public-keys-alone",
    "shared",
    "shared-below",
    "substitution",
    "substitution-secret",
];

#[test]
fn invalid_files_fail_with_their_whole_message() {
    let files = yaml_files(&here().join("tests/states/invalid"));
    assert!(!files.is_empty());
    let update = std::env::var_os("UPDATE_MESSAGES").is_some();
    let mut wrong = String::new();
    for path in files {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let message = match read(&path).and_then(|input| load(&input)) {
            Ok(_) => {
                let _ = writeln!(wrong, "{name}: the loader accepts it");
                continue;
            }
            Err(err) => {
                format!("{err}\n\n{}", err.render(false)).replace(&here().display().to_string(), "<repository>")
            }
        };
        if message.contains("canary") {
            let _ = writeln!(wrong, "{name}: a secret is in its message:\n{message}");
        }
        let kept = path.with_extension("message");
        if update {
            std::fs::write(&kept, &message).unwrap();
        } else if std::fs::read_to_string(&kept).unwrap_or_default() != message {
            let _ = writeln!(wrong, "{name}: its message is now (UPDATE_MESSAGES=1 accepts it):\n{message}");
        }
        let schema_accepts = std::fs::read_to_string(&path).ok().and_then(|text| schema_errors(&text)) == Some(vec![]);
        let beyond = BEYOND_SCHEMAS.contains(&name.as_str());
        if schema_accepts != beyond {
            let _ = writeln!(wrong, "{name}: the schema {} it", if schema_accepts { "accepts" } else { "refuses" });
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

fn fresh(path: &str, schema: &serde_json::Value, command: &str) {
    let kept = std::fs::read_to_string(here().join(path)).unwrap_or_default();
    let now = state::pretty(schema);
    if std::env::var_os("UPDATE_MESSAGES").is_some() {
        std::fs::write(here().join(path), &now).unwrap();
    } else {
        assert!(kept == now, "{path} is stale; run `{command} > {path}`");
    }
}

#[test]
fn the_schemas_are_fresh() {
    fresh("schema/steadfast.schema.json", &state::schema(), "steadfast schema");
    fresh("schema/manifest.schema.json", &state::manifest_schema(), "steadfast schema --manifest");
    fresh("schema/bundle.schema.json", &steadfast::publish::bundle::schema(), "steadfast schema --bundle");
}

#[test]
fn every_field_of_the_schemas_is_explained() {
    fn visit(at: &str, schema: &serde_json::Value, bare: &mut Vec<String>) {
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            if property.get("description").is_none()
                || property.get("examples").is_none()
                    && property.get("$ref").is_none()
                    && property.get("anyOf").is_none()
            {
                bare.push(format!("{at}.{name}"));
            }
        }
        for (name, definition) in schema["$defs"].as_object().into_iter().flatten() {
            visit(name, definition, bare);
        }
    }
    let mut bare = Vec::new();
    visit("state", &state::schema(), &mut bare);
    visit("manifest", &state::manifest_schema(), &mut bare);
    assert!(bare.is_empty(), "without description or example: {bare:?}");
}

#[test]
fn the_manifest_schema_tells_manifests() {
    let validator = jsonschema::validator_for(&state::manifest_schema()).unwrap();
    let manifest = |version: u32, key: &str| {
        serde_json::json!({"schemaVersion": version, "updatedAt": "2026-04-24T00:00:00Z", "later": 1, "agents": {"a": {
            "image": "r.example/a", "version": "1", "tarballs": {"x64": {"key": key, "sha256": "ab".repeat(32), "sizeBytes": 1}}}}})
    };
    assert!(validator.is_valid(&manifest(2, "vm/images/a-1-x64.tar.gz")));
    assert!(!validator.is_valid(&manifest(3, "vm/images/a-1-x64.tar.gz")));
    assert!(!validator.is_valid(&manifest(2, "/etc/passwd")));
}
