//! Which state files somebody works for: as they were named, and as the lock file and the socket tell it.

use std::fmt;
use std::path::{Path, PathBuf};

/// State files that are merged, in this order, as they were named. `-` is standard input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateFiles {
    first: PathBuf,
    layers: Vec<PathBuf>,
}

impl From<&Path> for StateFiles {
    fn from(only: &Path) -> Self {
        Self { first: only.to_owned(), layers: Vec::new() }
    }
}

impl fmt::Display for StateFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.first.display())?;
        self.layers.iter().try_for_each(|file| write!(f, ", {}", file.display()))
    }
}

impl StateFiles {
    /// These files. `None` when there is none.
    pub fn new(files: &[PathBuf]) -> Option<Self> {
        let (first, layers) = files.split_first()?;
        Some(Self { first: first.clone(), layers: layers.to_vec() })
    }

    /// The one that the others are merged upon.
    pub fn first(&self) -> &Path {
        &self.first
    }

    /// Those that are merged upon it.
    pub fn layers(&self) -> &[PathBuf] {
        &self.layers
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(self.first.as_path()).chain(self.layers.iter().map(PathBuf::as_path))
    }

    /// Whether one of them comes through standard input.
    pub fn has_stdin(&self) -> bool {
        self.iter().any(|file| file == Path::new("-"))
    }

    /// The same from wherever one looks.
    pub fn absolute(&self) -> Self {
        let absolute = |file: &PathBuf| std::path::absolute(file).unwrap_or_else(|_| file.clone());
        Self { first: absolute(&self.first), layers: self.layers.iter().map(absolute).collect() }
    }

    /// The first, as the lock file and the socket tell it.
    pub fn first_text(&self) -> String {
        path_text(&self.absolute().first)
    }

    /// The others, as the lock file and the socket tell them.
    pub fn layer_texts(&self) -> Vec<String> {
        self.absolute().layers.iter().map(|file| path_text(file)).collect()
    }

    /// Whether these are the files that are told: the same ones, in the same order.
    pub fn are(&self, told: &str, layers: &[String]) -> bool {
        is_same_file(told, &self.first)
            && self.layers.len() == layers.len()
            && layers.iter().zip(&self.layers).all(|(told, file)| is_same_file(told, file))
    }
}

/// Files that are told, for a message.
pub fn told_text(file: &str, layers: &[String]) -> String {
    std::iter::once(file).chain(layers.iter().map(String::as_str)).collect::<Vec<_>>().join(", ")
}

/// A path as the lock file and the socket tell it. Bytes that are no text are replaced, for JSON has none.
pub fn path_text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Whether both are the same state file: the same path as it stands there, or behind symbolic links.
pub fn is_same_file(told: &str, path: &Path) -> bool {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    told == path_text(&absolute)
        || std::fs::canonicalize(told).is_ok_and(|told| std::fs::canonicalize(&absolute).is_ok_and(|path| told == path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_by_two_paths_is_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("a.yaml"), dir.path().join("b.yaml"));
        std::fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(is_same_file(&path_text(&file), &link));
        assert!(!is_same_file(&path_text(&file), &dir.path().join("c.yaml")));
        std::fs::remove_file(&file).unwrap();
        assert!(is_same_file(&path_text(&file), &file), "gone, and yet the same");
    }

    #[test]
    fn files_are_the_same_in_the_same_order_alone() {
        let files = |names: &[&str]| StateFiles::new(&names.iter().map(PathBuf::from).collect::<Vec<_>>()).unwrap();
        let layers = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let both = files(&["/x/a.yaml", "/x/b.yaml"]);
        assert!(both.are("/x/a.yaml", &layers(&["/x/b.yaml"])));
        for (first, others) in [("/x/a.yaml", &[][..]), ("/x/b.yaml", &["/x/a.yaml"]), ("/x/a.yaml", &["/x/c.yaml"])] {
            assert!(!both.are(first, &layers(others)), "{first} {others:?}");
        }
        assert_eq!(both.to_string(), "/x/a.yaml, /x/b.yaml");
        assert_eq!((both.first_text().as_str(), both.layer_texts()), ("/x/a.yaml", layers(&["/x/b.yaml"])));
        assert!(files(&["a", "-"]).has_stdin() && StateFiles::new(&[]).is_none());
    }
}
