//! A state file: what is wrong with it is said in short words without secrets; what is right with it means the same however
//! its lines end, and can be planned and shown.

#![no_main]

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libfuzzer_sys::{Corpus, fuzz_target};
use steadfast::plan::Policy;
use steadfast::snapshot::Snapshot;
use steadfast::state::{Input, StateError, identity, variables};
use steadfast_fuzz::{SECRET, bounded, check_message, check_page, expand, load_layers, load_state, nothing};

/// Where its env file and its template lie.
fn dir() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let dir = std::env::temp_dir().join(format!("steadfast-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("agent.env"), "A=1\nB='two'\nTOKEN=three\n").unwrap();
        std::fs::write(dir.join("vm.yaml"), "images: []\nprovision: []\n").unwrap();
        dir
    })
}

fn check(text: &str) {
    let input = Input { name: "s.yaml".into(), text: text.into(), dir: dir().into() };
    let vars = [("HOME".to_owned(), "/h".to_owned())].into();
    let inputs = [input];
    let _ = (variables(&inputs), identity(&inputs, None, &vars));
    let layers: Vec<_> = text.split("\n# -f\n").collect();
    if layers.len() > 1 {
        // Files that are merged.
        return load_layers(&layers, dir()).map(drop).unwrap_or_else(|err| check_error(&err));
    }
    let loaded = match load_state(text, dir()) {
        Ok(loaded) => loaded,
        Err(err) => return check_error(&err),
    };
    for warning in &loaded.warnings {
        check_message(&warning.to_string());
        check_page(&warning.render_warning(false));
    }
    let again = |text: &str| load_state(text, dir()).map(|loaded| loaded.desired.meaning).ok();
    let meaning = Some(loaded.desired.meaning);
    assert_eq!(again(&format!("# a comment\n{}", text.trim_start_matches('\u{feff}'))), meaning, "with a comment");
    if !text.contains('\r') {
        assert_eq!(again(&text.replace('\n', "\r\n")), meaning, "with other line ends");
    }
    // All that is said of ten thousand agents is no question of the file.
    if loaded.desired.agents.len() > 50 {
        return;
    }
    let snapshot = Snapshot::of(&loaded.desired, nothing(), &Policy::default(), None);
    let said = steadfast::fuzzing::render::snapshot(&loaded.desired, &snapshot);
    for page in said.pages.iter().chain(&said.data) {
        check_page(page);
    }
}

fn check_error(err: &StateError) {
    assert!(!err.problems().is_empty() && err.problems().len() <= 100, "{} problems", err.problems().len());
    for problem in err.problems() {
        let text = problem.to_string();
        check_message(&text);
        assert!(!text.contains(SECRET), "a secret: {text}");
    }
    let page = steadfast::fuzzing::render::invalid(err);
    check_page(&page);
    assert!(!page.contains(SECRET), "a secret: {page}");
}

fuzz_target!(|data: &[u8]| -> Corpus {
    let Ok(text) = String::from_utf8(expand(data)) else { return Corpus::Reject };
    bounded(|| check(&text));
    Corpus::Keep
});
