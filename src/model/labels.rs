//! The labels of a container of ours, and whose a container is by its labels; and what the names of our things begin and end
//! with.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use super::canonical::{CanonicalSpec, HostKey};
use super::desired::Desired;
use super::hashing::hex;
use super::ids::{AgentName, Name};
use super::observed::{Owner, Whose};

/// What the name of each of them begins with.
pub const PREFIX: &str = "steadfast.";
/// Whose container it is: the `name` of a state file.
pub const NAME: &str = "steadfast.name";
/// Which agent it is.
pub const AGENT: &str = "steadfast.agent";
/// What it was created from.
pub const SPEC: &str = "steadfast.spec";
/// In which version of that record.
pub const SPEC_VERSION: &str = "steadfast.spec-version";
/// Below which root it was made: [`RootClaim::mark`]. Absent on what older versions made.
pub const ROOT: &str = "steadfast.root";
/// Where that root was. For people only.
pub const ROOT_PATH: &str = "steadfast.root-path";
/// A random word of this container alone. An image that was made of a container has all of that container's labels, and so
/// has whatever runs from it; this tells them apart. Absent on what older versions made.
pub const ID: &str = "steadfast.id";

/// What an older version wrote, each time.
const FIRST: [&str; 4] = [NAME, AGENT, SPEC, SPEC_VERSION];

/// What a successor is called until it takes the name.
pub const NEXT_SUFFIX: &str = ".next";
/// What a predecessor is called until it is dropped.
pub const PREV_SUFFIX: &str = ".prev";

/// How the names of our temporary files begin.
pub const TEMPORARY: &str = ".steadfast-tmp-";
/// How the name of a download ends that is not complete.
pub const PARTIAL: &str = ".partial";
/// How the name of what is known about it ends.
pub const PARTIAL_SIDECAR: &str = ".partial.json";
/// How the name of a tarball's digest ends.
pub const DIGEST_SIDECAR: &str = ".sha256";
/// How the name of the list of a tarball's members ends.
pub const LAYERS_LIST: &str = ".layers.json";
/// How the name of a signature ends.
pub const SIGNATURE: &str = ".minisig";

/// What lies beside a file, under its name and this ending.
pub fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// Labels by name.
pub type Labels = BTreeMap<String, String>;

/// The label that says which entry of the state file a volume or network was made for.
pub const SHARED: &str = "steadfast.key";

/// The labels of a volume or network of ours, those of the user among them.
pub fn of_shared(desired: &Desired, key: &str, own: &BTreeMap<String, String>) -> Labels {
    let mut all = own.clone();
    all.extend([(NAME.to_owned(), desired.name.to_string()), (SHARED.to_owned(), key.to_owned())]);
    if let Some(root) = desired.claim.mark() {
        all.insert(ROOT.to_owned(), root);
        all.insert(ROOT_PATH.to_owned(), desired.root.to_string_lossy().into_owned());
    }
    all
}

/// Tells the roots apart that keep a state file of one name: random, from `<root>/state/id`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RootId(String);

impl RootId {
    /// From its 16 bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(hex(&bytes))
    }

    /// From its 32 hex digits. `None` when it is something else, or all zeros.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let is_one = text.len() == 32 && text.bytes().all(hex) && text.bytes().any(|byte| byte != b'0');
        is_one.then(|| Self(text.to_owned()))
    }

    /// The 32 hex digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The random word of a container, for [`ID`].
pub fn container_id(bytes: [u8; 16]) -> String {
    hex(&bytes)
}

/// Which of the containers with a state file's name are this root's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootClaim {
    /// The root's id. `None` where it has none yet, or cannot keep one.
    pub id: Option<RootId>,
    /// What this machine and the root's path hash to: by that a root is known that was lost with its id, and begun anew.
    pub place: Option<RootId>,
    /// Whether those that name no root are its own: an older version made them here.
    pub unlabelled: bool,
}

impl Default for RootClaim {
    /// Of a root without an id: what names no root is its own.
    fn default() -> Self {
        Self { id: None, place: None, unlabelled: true }
    }
}

impl RootClaim {
    /// What is written on a thing of this root's: its id, and after a dot its place. `None` where it has no id.
    pub fn mark(&self) -> Option<String> {
        let id = self.id.as_ref()?;
        Some(match &self.place {
            Some(place) => format!("{id}.{place}"),
            None => id.to_string(),
        })
    }

    /// Whether a mark is this root's: one that was moved has another place, one that was lost another id.
    pub fn owns(&self, mark: &str) -> bool {
        let (id, place) = mark.split_once('.').unwrap_or((mark, ""));
        let is = |ours: &Option<RootId>, theirs: &str| ours.as_ref().is_some_and(|ours| ours.as_str() == theirs);
        is(&self.id, id) || is(&self.place, place)
    }
}

/// Whose containers are looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ownership {
    /// The `name` of the state file.
    pub name: Name,
    /// The root its state lies below.
    pub root: RootClaim,
}

impl From<Name> for Ownership {
    /// The owner of what has this name and names no root.
    fn from(name: Name) -> Self {
        Self { name, root: RootClaim::default() }
    }
}

impl Ownership {
    /// Whether a thing with these labels may be ours, as far as they tell without its image.
    pub fn may_own<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        label(NAME) == Some(self.name.as_str()) && label(ROOT).is_none_or(|root| self.root.owns(root))
    }

    /// Whose a container with these labels is. `image` has the labels of its image; `wanted` says that it holds the name of
    /// one of our agents.
    pub fn owner<'a>(
        &self,
        label: impl Fn(&str) -> Option<&'a str>,
        image: Option<&Labels>,
        wanted: bool,
        key: &HostKey,
    ) -> Owner {
        let Some(name) = label(NAME) else { return Owner::Foreign(Whose::Somebody) };
        if image.is_some_and(|image| is_copy(&label, image, wanted)) {
            return Owner::Foreign(Whose::Copy);
        }
        if name != self.name.as_str() {
            return Owner::Foreign(Whose::Name(name.to_owned()));
        }
        let spec = label(SPEC).and_then(CanonicalSpec::from_label);
        match label(ROOT) {
            Some(root) if self.root.owns(root) => {}
            Some(root) => {
                let path = label(ROOT_PATH).map(str::to_owned);
                let id = root.split_once('.').map_or(root, |(id, _)| id).to_owned();
                return Owner::Foreign(Whose::Root { id, path });
            }
            // The key is a root's own, too: what was hashed with it was made here.
            None if self.root.unlabelled || spec.as_ref().is_some_and(|spec| spec.is_hashed_with(key)) => {}
            None => return Owner::Foreign(Whose::Unknown),
        }
        Owner::Ours {
            agent: label(AGENT).and_then(|name| AgentName::new(name).ok()),
            spec,
            version: label(SPEC_VERSION).and_then(|version| version.parse().ok()).unwrap_or(0),
        }
    }
}

/// Whether a container has its labels from its image alone. Of one that an older version made only its labels together
/// tell that; one that holds the name of an agent is taken for that agent's then, since it may have been made from an image
/// that was committed under the agent's own tag.
fn is_copy<'a>(label: impl Fn(&str) -> Option<&'a str>, image: &Labels, wanted: bool) -> bool {
    let inherited = |name: &str| label(name) == image.get(name).map(String::as_str);
    match label(ID) {
        Some(_) => inherited(ID),
        None => !wanted && FIRST.into_iter().all(inherited),
    }
}

/// Which of these are copies of another (`podman container clone`): they share its [`ID`], and were created later. Each is
/// its place in the list, its id label, and what orders them by creation.
pub fn later_twins<'a, T: Ord>(containers: impl IntoIterator<Item = (&'a str, T)>) -> BTreeSet<usize> {
    let mut firsts = BTreeMap::<&str, (T, usize)>::new();
    let mut twins = BTreeSet::new();
    for (place, (id, created)) in containers.into_iter().enumerate() {
        match firsts.get_mut(id) {
            None => {
                firsts.insert(id, (created, place));
            }
            Some(first) if first.0 <= created => {
                twins.insert(place);
            }
            Some(first) => {
                twins.insert(std::mem::replace(first, (created, place)).1);
            }
        }
    }
    twins
}

#[cfg(test)]
mod tests {
    use super::*;

    fn us() -> Ownership {
        let id = RootId::parse(&"a1".repeat(16));
        Ownership { name: Name::new("demo").unwrap(), root: RootClaim { id, place: None, unlabelled: false } }
    }

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn owner(of: &Ownership, container: &Labels, image: &Labels, wanted: bool) -> Owner {
        let label = |name: &str| container.get(name).map(String::as_str);
        of.owner(label, Some(image), wanted, &HostKey::from_bytes([1; 32]))
    }

    fn is_ours(owner: Owner) -> bool {
        matches!(owner, Owner::Ours { .. })
    }

    #[test]
    fn a_container_is_ours_by_name_and_root() {
        let here = "a1".repeat(16);
        let ours = labels(&[(NAME, "demo"), (ROOT, &here), (ID, "1")]);
        assert!(is_ours(owner(&us(), &ours, &Labels::new(), false)));
        let there = labels(&[(NAME, "demo"), (ROOT, &"b2".repeat(16)), (ROOT_PATH, "/r"), (ID, "1")]);
        let whose = Whose::Root { id: "b2".repeat(16), path: Some("/r".into()) };
        assert_eq!(owner(&us(), &there, &Labels::new(), true), Owner::Foreign(whose));
        let other = labels(&[(NAME, "other"), (ROOT, &here)]);
        assert_eq!(owner(&us(), &other, &Labels::new(), true), Owner::Foreign(Whose::Name("other".into())));
        assert_eq!(owner(&us(), &Labels::new(), &Labels::new(), true), Owner::Foreign(Whose::Somebody));
        let without_id = Ownership::from(Name::new("demo").unwrap());
        assert!(!is_ours(owner(&without_id, &ours, &Labels::new(), false)), "a root without an id has made none");
    }

    #[test]
    fn what_names_no_root_is_ours_where_an_older_version_made_it() {
        let old = labels(&[(NAME, "demo"), (AGENT, "a")]);
        let before = Ownership { root: RootClaim { unlabelled: true, ..us().root }, ..us() };
        assert!(is_ours(owner(&before, &old, &Labels::new(), false)));
        assert_eq!(owner(&us(), &old, &Labels::new(), true), Owner::Foreign(Whose::Unknown));
        let hashed = |key: u8| {
            let spec = format!("{{\"fields\":{{}},\"key\":\"{}\"}}", HostKey::from_bytes([key; 32]).id());
            labels(&[(NAME, "demo"), (SPEC, &spec)])
        };
        assert!(is_ours(owner(&us(), &hashed(1), &Labels::new(), false)), "hashed with this root's key");
        assert!(!is_ours(owner(&us(), &hashed(2), &Labels::new(), false)));
    }

    #[test]
    fn labels_count_only_where_they_are_not_the_images_own() {
        let here = "a1".repeat(16);
        let agent = labels(&[(NAME, "demo"), (ROOT, &here), (ID, "1"), (SPEC, "x")]);
        assert_eq!(owner(&us(), &agent, &agent, false), Owner::Foreign(Whose::Copy), "run from a committed image");
        assert_eq!(owner(&us(), &agent, &agent, true), Owner::Foreign(Whose::Copy), "under an agent's name as well");
        let mut anew = agent.clone();
        anew.insert(ID.into(), "2".into());
        assert!(is_ours(owner(&us(), &anew, &agent, false)), "an agent whose own image was committed from an agent");
        assert!(is_ours(owner(&us(), &agent, &labels(&[(NAME, "demo")]), false)), "the image is an older version's");
    }

    #[test]
    fn a_copy_of_an_older_versions_container_is_known_by_all_its_labels() {
        let of = Ownership { root: RootClaim { unlabelled: true, ..us().root }, ..us() };
        let agent = labels(&[(NAME, "demo"), (AGENT, "a"), (SPEC, "x"), (SPEC_VERSION, "1")]);
        assert_eq!(owner(&of, &agent, &agent, false), Owner::Foreign(Whose::Copy));
        let other_spec = Labels::from_iter(agent.clone().into_iter().chain([(SPEC.to_owned(), "y".to_owned())]));
        assert!(is_ours(owner(&of, &other_spec, &agent, false)), "an agent made from that image");
        assert!(is_ours(owner(&of, &agent, &agent, true)), "committed under the agent's own tag");
        let commented = Labels::from_iter(agent.clone().into_iter().chain([("more".to_owned(), "m".to_owned())]));
        assert_eq!(owner(&of, &commented, &agent, false), Owner::Foreign(Whose::Copy), "run with a label of its own");
    }

    #[test]
    fn of_those_that_share_an_id_the_first_created_is_the_one() {
        assert_eq!(later_twins([("a", 5), ("b", 1), ("a", 3), ("a", 4)]), [0, 3].into());
        assert_eq!(later_twins([("a", 1), ("b", 1)]), [].into());
    }

    #[test]
    fn a_root_is_known_by_its_id_where_it_was_moved_and_by_its_place_where_it_was_lost() {
        let id = |byte: u8| Some(RootId::from_bytes([byte; 16]));
        let first = RootClaim { id: id(1), place: id(2), unlabelled: false };
        let mark = first.mark().unwrap();
        assert!(first.owns(&mark));
        assert!(RootClaim { place: id(3), ..first.clone() }.owns(&mark), "moved");
        assert!(RootClaim { id: id(3), ..first.clone() }.owns(&mark), "lost and begun anew");
        assert!(RootClaim { id: None, ..first.clone() }.owns(&mark), "lost, and only looked at");
        assert!(!RootClaim { id: id(3), place: id(4), ..first.clone() }.owns(&mark));
        assert!(!RootClaim { id: id(2), place: id(1), ..first.clone() }.owns(&mark));
        let bare = RootClaim { place: None, ..first };
        assert_eq!(bare.mark().unwrap(), "01".repeat(16));
        assert!(bare.owns(&mark) && !RootClaim { id: None, ..bare }.owns(&mark));
    }

    #[test]
    fn a_root_id_is_32_hex_digits() {
        assert_eq!(RootId::from_bytes([0xa1; 16]).as_str(), "a1".repeat(16));
        for garbage in ["", "a1", &"A1".repeat(16), &"0".repeat(32), &"g1".repeat(16), &"a1".repeat(17)] {
            assert_eq!(RootId::parse(garbage), None, "{garbage}");
        }
    }
}
