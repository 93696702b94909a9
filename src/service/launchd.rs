//! The property list for launchd.

use std::fmt::Write;
use std::path::Path;

use super::{MARK, STOP_SECONDS, Scope, Service, Unfit, fit};

pub(super) fn render(service: &Service) -> Result<String, Unfit> {
    let mut list = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    list +=
        "<!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n";
    let _ = writeln!(list, "<!-- {MARK} -->");
    if !service.needs.is_empty() {
        let _ = writeln!(
            list,
            "<!-- The state file needs these variables: {}. launchd has no file for them: keep the values in an env file\n     \
             (`envFile`, mode 0600) that the state file names. -->",
            service.needs.join(", ")
        );
    }
    list += "<plist version=\"1.0\">\n<dict>\n";
    let _ = writeln!(list, "  <key>Label</key>\n  {}", string(&Service::id(&service.name, super::Manager::Launchd)));
    list += "  <key>ProgramArguments</key>\n  <array>\n";
    for word in service.command()? {
        let _ = writeln!(list, "    {}", string(&word));
    }
    list += "  </array>\n";
    let environment = service.environment()?;
    if !environment.is_empty() {
        list += "  <key>EnvironmentVariables</key>\n  <dict>\n";
        for (name, value) in &environment {
            let _ = writeln!(list, "    <key>{}</key>\n    {}", escape(name), string(value));
        }
        list += "  </dict>\n";
    }
    let logs = match service.scope {
        Scope::User => service.home.join("Library/Logs"),
        Scope::System => Path::new("/Library/Logs").to_owned(),
    };
    let log = fit(&logs.join(format!("steadfast-{}.log", service.name)))?;
    if service.vm {
        // The virtual machine goes on running when the job is stopped.
        list += "  <key>AbandonProcessGroup</key>\n  <true/>\n";
    }
    let _ = write!(
        list,
        "  <key>RunAtLoad</key>\n  <true/>\n  <key>KeepAlive</key>\n  <true/>\n  <key>ThrottleInterval</key>\n  <integer>5</integer>\n  \
         <key>ExitTimeOut</key>\n  <integer>{STOP_SECONDS}</integer>\n  <key>ProcessType</key>\n  <string>Background</string>\n  \
         <key>Umask</key>\n  <integer>63</integer>\n  <key>StandardErrorPath</key>\n  {}\n</dict>\n</plist>\n",
        string(&log)
    );
    Ok(list)
}

fn string(text: &str) -> String {
    format!("<string>{}</string>", escape(text))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
