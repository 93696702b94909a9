//! The file that `steadfast init` writes.

use std::path::Path;

use crate::model::Name;

const STARTER: &str = include_str!("starter.yaml");

/// A commented starter state file that applies as it stands, for this owner.
pub fn starter(name: &Name) -> String {
    STARTER.replacen("\nname: demo\n", &format!("\nname: {name}\n"), 1)
}

/// What a state file in this directory is called: after the directory, as far as it makes a name.
pub fn name_after(directory: &Path) -> Name {
    let called = directory.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let mut label = String::new();
    for c in called.chars() {
        match c {
            'a'..='z' | '0'..='9' => label.push(c),
            // Several such characters, and one at the start, make no more than one dash.
            _ if !label.is_empty() && !label.ends_with('-') => label.push('-'),
            _ => {}
        }
    }
    // Room is left for the agent's name in a container's.
    label.truncate(40);
    let fallback = || Name::new("agents").unwrap_or_else(|_| unreachable!("it is a name"));
    Name::new(label.trim_end_matches('-')).unwrap_or_else(|_| fallback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_after_its_directory() {
        let name = |path: &str| name_after(Path::new(path)).to_string();
        for (path, wanted) in [
            ("/home/me/pa", "pa"),
            ("/srv/My Agents_2", "my-agents-2"),
            ("/srv/--a..b--", "a-b"),
            ("/srv/café", "caf"),
            ("/", "agents"),
            ("/srv/日本", "agents"),
            ("/srv/.config", "config"),
        ] {
            assert_eq!(name(path), wanted, "{path}");
        }
        let long = name(&format!("/srv/{}-{}", "x".repeat(39), "y".repeat(200)));
        assert_eq!(long, "x".repeat(39));
    }

    #[test]
    fn the_starter_has_that_name() {
        let text = starter(&name_after(Path::new("/srv/pb")));
        assert!(text.contains("\nname: pb\n") && !text.contains("name: demo"), "{text}");
        assert!(text.starts_with("# yaml-language-server: $schema=./steadfast.schema.json\n"));
    }
}
