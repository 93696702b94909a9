//! `history`: what changed when, triggered by what, with which outcome. It reads the journal and nothing else, so it needs
//! neither Podman nor the lock.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::render::said::{Level, say};
use super::render::{self, history as render_history};
use super::settings::{check_root, state_dir};
use super::{CliError, ExitStatus, Format, HistoryArgs, Settings};
use crate::model::{AgentName, Desired, Name};
use crate::reconcile::journal::read::{Entry, Filter, Reader};
use crate::state;

/// How often `--follow` looks for new entries.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// `--since`: a time, or how long ago.
pub(super) fn since(text: &str) -> Result<SystemTime, String> {
    if let Some(time) = crate::time::parse_typed(text) {
        return Ok(time);
    }
    let ago = super::duration(text)
        .map_err(|err| format!("neither a duration like `2h` nor a time like `2026-04-24T00:00:00Z`: {err}"))?;
    Ok(SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH))
}

pub(super) async fn history(settings: &Settings, args: HistoryArgs) -> Result<ExitStatus, CliError> {
    let about = About::find(settings)?;
    let path = about.journal.clone();
    let cannot = |err| cannot_read(&path, err);
    let mut reader = Reader::open(&path).map_err(cannot)?;
    let filter = Filter { agent: args.agent.as_ref().map(ToString::to_string), since: args.since };
    let entries = reader.last(&filter, args.number).map_err(cannot)?;
    if entries.is_empty()
        && let Some(agent) = &args.agent
    {
        refuse_unknown(agent, &about)?;
    }
    if reader.skipped() > 0 && !settings.quiet {
        let lines = render::units::count(usize::try_from(reader.skipped()).unwrap_or(usize::MAX), "line");
        say(Level::Info, &format!("{lines} of the journal cannot be read"), &[], settings.color_stderr);
    }
    let mut page = render_history::Page::new(args.agent.as_ref(), settings.color_stdout);
    match settings.output {
        Format::Json | Format::Yaml if args.follow => {
            for entry in &entries {
                print_one(settings, entry)?;
            }
        }
        Format::Json | Format::Yaml => {
            let all: Vec<_> = entries.iter().map(|entry| &entry.fields).collect();
            render::print_data(settings.output, &all)?;
        }
        Format::Text | Format::Markdown if entries.is_empty() && !args.follow => {
            render::print(&render_history::nothing(&about.name, args.agent.as_ref(), args.since))?;
        }
        Format::Text | Format::Markdown => {
            render::print(&entries.iter().fold(page.head(), |text, entry| text + &page.entry(entry)))?;
        }
    }
    if args.follow { follow(settings, reader, &filter, &mut page, &path).await } else { Ok(ExitStatus::Done) }
}

/// Prints each entry as it comes, until the user has seen enough.
async fn follow(
    settings: &Settings,
    mut reader: Reader,
    filter: &Filter,
    page: &mut render_history::Page,
    path: &Path,
) -> Result<ExitStatus, CliError> {
    loop {
        while let Some(entry) = reader.poll().map_err(|err| cannot_read(path, err))? {
            if !filter.admits(&entry) {
                continue;
            }
            let read = match settings.output {
                Format::Json | Format::Yaml => print_one(settings, &entry)?,
                Format::Text | Format::Markdown => render::print_more(&page.entry(&entry))?,
            };
            if !read {
                return Ok(ExitStatus::Done);
            }
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// One entry of many: a line of JSON, or a document of YAML. Yields whether somebody still reads.
fn print_one(settings: &Settings, entry: &Entry) -> Result<bool, CliError> {
    let text = match settings.output {
        Format::Yaml => serde_yaml::to_string(&entry.fields)
            .map(|text| format!("---\n{text}"))
            .map_err(|err| CliError::new(ExitStatus::Error, format!("cannot serialize the answer: {err}")))?,
        _ => serde_json::Value::Object(entry.fields.clone()).to_string() + "\n",
    };
    render::print_more(&text)
}

/// Whose history it is.
struct About {
    name: Name,
    agents: BTreeSet<String>,
    journal: PathBuf,
}

impl About {
    /// From the state file. One that is broken still tells its name and root, and what happened is wanted just then.
    fn find(settings: &Settings) -> Result<Self, CliError> {
        let err = match settings.load(None) {
            Ok(loaded) => {
                let desired = loaded.desired;
                let agents = desired.agents.keys().map(ToString::to_string).collect();
                return Ok(Self { journal: journal_path(&desired), name: desired.name, agents });
            }
            Err(err) => err,
        };
        let inputs = settings.can_read_again().then(|| settings.inputs().ok()).flatten();
        match inputs.and_then(|inputs| state::identity(&inputs, settings.root.as_deref(), &settings.vars)) {
            Some((name, root)) => {
                check_root(&root, Some(&name))?;
                let journal = root.join("state").join(name.as_str()).join("journal.jsonl");
                Ok(Self { name, agents: BTreeSet::new(), journal })
            }
            None => Err(err),
        }
    }
}

/// An agent that neither the state file nor the journal has heard of is a slip of the fingers.
fn refuse_unknown(agent: &AgentName, about: &About) -> Result<(), CliError> {
    let mut names = agents_in(&about.journal)?;
    names.extend(about.agents.iter().cloned());
    if names.contains(agent.as_str()) {
        return Ok(());
    }
    Err(unknown_agent(agent, "neither the state file nor the journal has", &names))
}

/// The error for an agent that nobody knows.
pub(super) fn unknown_agent(agent: &AgentName, who: &str, names: &BTreeSet<String>) -> CliError {
    let err = CliError::new(ExitStatus::Usage, format!("{who} an agent `{agent}`"));
    let near = names
        .iter()
        .map(|name| (strsim::normalized_damerau_levenshtein(agent.as_str(), name), name))
        .filter(|(like, _)| *like >= 0.6)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let err = match near {
        Some((_, near)) => err.hint(format!("did you mean `{near}`?")),
        None => err,
    };
    if names.is_empty() {
        return err.hint("there are none");
    }
    let all: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    err.hint(format!("there {} {}", if all.len() == 1 { "is" } else { "are" }, all.join(", ")))
}

/// Every agent that the journal has heard of.
fn agents_in(path: &Path) -> Result<BTreeSet<String>, CliError> {
    let mut names = BTreeSet::new();
    each(path, |entry| {
        names.extend(entry.agent().map(str::to_owned));
        names.extend(entry.problems().filter_map(|told| told.agent.map(str::to_owned)));
    })?;
    Ok(names)
}

/// Shows every entry of the journal, oldest first.
pub(super) fn each(path: &Path, mut show: impl FnMut(&Entry)) -> Result<(), CliError> {
    let mut reader = Reader::open(path).map_err(|err| cannot_read(path, err))?;
    while let Some(entry) = reader.entry().map_err(|err| cannot_read(path, err))? {
        show(&entry);
    }
    Ok(())
}

/// Where the journal of a state file is.
pub(super) fn journal_path(desired: &Desired) -> PathBuf {
    state_dir(desired).join("journal.jsonl")
}

fn cannot_read(path: &Path, err: std::io::Error) -> CliError {
    CliError::new(ExitStatus::Error, format!("cannot read the journal `{}`: {err}", path.display()))
        .hint("it belongs to whoever runs `apply` or `run`, and may be removed: nothing is decided by it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_takes_times_and_durations() {
        let at = |text| since(text).unwrap();
        assert_eq!(at("1970-01-01T00:01:00Z"), SystemTime::UNIX_EPOCH + Duration::from_secs(60));
        assert_eq!(at("1970-01-02 00:00:00"), SystemTime::UNIX_EPOCH + Duration::from_secs(86_400));
        let ago = SystemTime::now().duration_since(at("2h")).unwrap();
        // The clock may be set meanwhile, so to the hour.
        assert_eq!((ago.as_secs_f64() / 3600.0).round() as u64, 2, "{ago:?}");
        assert!(since("yesterday").unwrap_err().contains("neither a duration"));
    }
}
