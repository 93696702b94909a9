//! Whose a container is.

use std::fmt;

use crate::model::canonical::CanonicalSpec;
use crate::model::ids::AgentName;

/// Whose a container is.
#[derive(Debug, Clone, PartialEq)]
pub enum Owner {
    /// It carries our `steadfast.name`.
    Ours {
        /// `steadfast.agent`; `None` when that label is missing or not an agent name.
        agent: Option<AgentName>,
        /// `steadfast.spec`; `None` when it cannot be read.
        spec: Option<CanonicalSpec>,
        /// `steadfast.spec-version`; 0 when missing.
        version: u32,
    },
    /// It carries another owner's `steadfast.name`, or none at all. Never touched without `--adopt`.
    Foreign(Whose),
}

/// Whose a foreign container is, as far as its labels tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    /// It has no label of ours.
    Somebody,
    /// A state file's with another `name`.
    Name(String),
    /// A state file's with the same `name`, below another root.
    Root {
        /// The id of that root.
        id: String,
        /// Where that root was.
        path: Option<String>,
    },
    /// A state file's with the same `name`; it names no root, and an older version made it elsewhere.
    Unknown,
    /// Nobody's: all its labels are those of its image, which was made of a container of ours (`podman commit`), or it is a
    /// clone of one.
    Copy,
}

impl fmt::Display for Whose {
    /// The rest of a sentence about the container.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Whose::Somebody => f.write_str("does not belong to this state file"),
            Whose::Name(name) => write!(f, "belongs to another state file, of name `{name}`"),
            Whose::Root { id, path } => {
                let id = id.get(..8).unwrap_or(id);
                match path {
                    Some(path) => {
                        write!(f, "belongs to a state file of the same name below another root, `{path}` (id {id}…)")
                    }
                    None => write!(f, "belongs to a state file of the same name below another root (id {id}…)"),
                }
            }
            Whose::Unknown => f.write_str(
                "belongs to a state file of the same name below another root: an older steadfast made it, and not here",
            ),
            Whose::Copy => f.write_str("is a copy of an agent's container (`podman commit`, `podman container clone`)"),
        }
    }
}

impl Owner {
    /// Whose it is when it is none of ours.
    pub fn whose(&self) -> Option<Whose> {
        match self {
            Owner::Ours { .. } => None,
            Owner::Foreign(whose) => Some(whose.clone()),
        }
    }

    /// Whether it is one of ours, made for this agent.
    pub fn is_of(&self, agent: &AgentName) -> bool {
        matches!(self, Owner::Ours { agent: Some(owner), .. } if owner == agent)
    }
}
