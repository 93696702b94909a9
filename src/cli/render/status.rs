//! A status for people.

use std::fmt::Write;

use super::{ADD, ASIDE, CHANGE, REMOVE, STRONG, styled};
use crate::status::{AgentStatus, Status};

/// The status as a page of text.
pub fn text(status: &Status, color: bool) -> String {
    let mut out = String::new();
    let state = if status.converged { styled("converged", ADD, color) } else { styled("not converged", CHANGE, color) };
    let _ = writeln!(out, "{} {state}", styled(&format!("{}:", status.name), STRONG, color));
    let podman = match (&status.podman.version, &status.podman.error) {
        (Some(version), _) => format!("Podman {version}"),
        (None, Some(why)) => styled(&format!("Podman cannot be seen: {why}"), REMOVE, color),
        (None, None) => "Podman was not looked at".to_owned(),
    };
    let _ = writeln!(out, "  {podman}");
    if let Some(manifest) = &status.manifest {
        let url = manifest.url.as_deref().unwrap_or("(no place configured)");
        let _ = writeln!(out, "  manifest of {} from {url}", manifest.updated_at);
        if let Some(why) = &manifest.offline {
            let _ = writeln!(out, "  {}", styled(&format!("the last good one: {why}"), CHANGE, color));
        }
    }
    if status.agents.is_empty() {
        let _ = writeln!(out, "  no agents");
    } else {
        let _ = writeln!(out);
        table(&mut out, status, color);
    }
    for orphan in &status.orphans {
        let _ = writeln!(out, "  container `{orphan}` belongs to no agent of the state file");
    }
    out
}

fn table(out: &mut String, status: &Status, color: bool) {
    const HEAD: [&str; 6] = ["AGENT", "WANTED", "VERSION", "SYNC", "HEALTH", "CONTAINER"];
    let rows: Vec<[String; 6]> = status
        .agents
        .iter()
        .map(|(name, agent)| {
            let container = agent.container.as_ref().map_or_else(
                || "-".to_owned(),
                |container| {
                    let id = container.id.get(..12).unwrap_or(&container.id);
                    format!("{} {} ({id})", container.name, container.state)
                },
            );
            let wanted = &agent.desired;
            let suspended = if wanted.suspend { ", suspended" } else { "" };
            let state = format!("{}{suspended}", wanted.state);
            [name.to_string(), state, wanted.version.clone(), agent.sync.into(), agent.health.into(), container]
        })
        .collect();
    let mut widths = HEAD.map(str::len);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &[String; 6]| {
        let padded: Vec<_> = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let _ = writeln!(out, "  {}", styled(&line(&HEAD.map(str::to_owned)), STRONG, color));
    for (row, agent) in rows.iter().zip(status.agents.values()) {
        let style = match agent {
            AgentStatus { ready: true, .. } => ADD,
            AgentStatus { health: "Failed" | "Degraded", .. } => REMOVE,
            _ => CHANGE,
        };
        let _ = writeln!(out, "  {}", styled(&line(row), style, color));
        if !agent.ready
            && let Some(condition) = agent.conditions.first()
        {
            let _ = writeln!(
                out,
                "      {}",
                styled(&format!("{}: {}", condition.reason, condition.message), ASIDE, color)
            );
        }
    }
}
