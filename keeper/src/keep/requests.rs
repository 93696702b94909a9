//! What clients ask for.

use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::net::sockopt::socket_peercred;
use rustix::process::{Signal, geteuid};

use super::client::{Arriving, Client};
use super::{Keeper, MAX_CLIENTS, Phase};
use crate::connect::{SILENCE, not_running};
use crate::frame::{self, Frame, Kind};
use crate::input::{ClientId, Input, Known, Outcome};
use crate::message::{Attach, Hello, MAX_SEND, Problem, ProblemKind, Send, Sent, Size, Status, Stdin, Stop};

/// How long a command that closed its input may take to end: that is then why nothing can be sent.
pub(super) const BROKEN: Duration = Duration::from_millis(200);
/// The longest that a send may wait.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

impl Keeper {
    pub(super) fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if stream.set_nonblocking(true).is_err() {
                continue;
            }
            let uid = socket_peercred(&stream).map(|peer| peer.uid);
            let may_speak = uid.is_ok_and(|uid| uid.is_root() || uid == geteuid());
            self.next_client += 1;
            let mut client = Client::new(self.next_client, stream, may_speak);
            client.tell(Kind::Hello, &Hello { version: frame::VERSION });
            if self.clients.len() >= MAX_CLIENTS {
                let message = format!(
                    "{MAX_CLIENTS} clients are connected to session {}, the most there may be",
                    self.full_name()
                );
                client.refuse(&Problem::new(ProblemKind::Protocol, message));
            } else if !may_speak {
                let message = format!("session {} belongs to another user", self.full_name());
                client.refuse(&Problem::new(ProblemKind::System, message));
            }
            self.clients.push(client);
        }
    }

    /// Hears a client. Gone, it takes nothing with it that was announced whole.
    pub(super) fn hear(&mut self, index: usize, flags: PollFlags) {
        let Some(client) = self.clients.get_mut(index) else { return };
        if flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            let mut buffer = std::mem::take(&mut self.buffer);
            let is_heard = client.wants_more(self.input.is_full()) || flags.intersects(PollFlags::HUP | PollFlags::ERR);
            if is_heard && let Some(bytes) = client.read(&mut buffer) {
                client.frames.push(bytes);
            }
            self.buffer = buffer;
        }
        loop {
            let Some(client) = self.clients.get_mut(index).filter(|client| !client.is_gone()) else { return };
            match client.frames.next() {
                Ok(Some(frame)) => self.answer(index, frame),
                Ok(None) => return,
                Err(err) => {
                    return client
                        .refuse(&Problem::new(ProblemKind::Protocol, format!("a frame cannot be read: {err}")));
                }
            }
        }
    }

    fn answer(&mut self, index: usize, frame: Frame) {
        let Some(client) = self.clients.get_mut(index) else { return };
        if !client.may_speak {
            return;
        }
        if !client.is_met && frame.kind != Kind::Hello {
            return client.refuse(&Problem::new(ProblemKind::Protocol, "a client says hello first"));
        }
        client.has_asked |= frame.kind != Kind::Hello;
        let read = match frame.kind {
            Kind::Hello => {
                client.is_met = true;
                Ok(())
            }
            Kind::Attach => serde_json::from_slice(&frame.payload).map(|attach| self.attach(index, &attach)),
            Kind::Send => serde_json::from_slice(&frame.payload).map(|send| self.announce(index, send)),
            Kind::Data => return self.take_data(index, &frame.payload),
            Kind::End => return self.take_end(index),
            Kind::Stop => serde_json::from_slice(&frame.payload).map(|stop| self.stop_for(index, &stop)),
            Kind::Resize => serde_json::from_slice::<Size>(&frame.payload).map(|size| self.resize(index, size)),
            Kind::Wait => {
                client.waits = true;
                Ok(())
            }
            Kind::Status => {
                let state = self.state();
                self.clients[index].tell(Kind::State, &state);
                Ok(())
            }
            // Only ever said by a keeper, or said to be heard.
            _ => Ok(()),
        };
        if let Err(err) = read {
            let problem = Problem::new(ProblemKind::Protocol, format!("a request cannot be read: {err}"));
            self.refuse(index, &problem);
        }
    }

    fn refuse(&mut self, index: usize, problem: &Problem) {
        if let Some(client) = self.clients.get_mut(index) {
            client.refuse(problem);
        }
    }

    fn attach(&mut self, index: usize, attach: &Attach) {
        let mut taken = 0;
        if let Some(writer) = &attach.writer {
            if let Some(problem) = self.no_input() {
                return self.refuse(index, &problem);
            }
            let holder = self.clients.iter().position(|other| other.writer.is_some() && !other.is_gone());
            if let Some(holder) = holder.filter(|holder| *holder != index) {
                let other = &self.clients[holder];
                let same = other.writer.as_deref() == Some(writer.id.as_str());
                let name = self.full_name();
                if !(writer.takeover || same || other.heard.elapsed() > SILENCE) {
                    let message = format!("somebody else is attached to session {name} and writes");
                    return self.refuse(index, &Problem::new(ProblemKind::Writer, message));
                }
                let message = format!("somebody else took over session {name}");
                self.refuse(holder, &Problem::new(ProblemKind::Writer, message));
            }
            taken = self.input.writer_at(&writer.id);
            if let (Some(size), Phase::Alive(child)) = (writer.size, &self.phase) {
                child.resize(size);
            }
        }
        let Some(client) = self.clients.get_mut(index) else { return };
        client.writer = attach.writer.as_ref().map(|writer| writer.id.clone());
        if let Err(err) = client.attach(attach, &self.log, taken, self.state.tty) {
            client.refuse(&Problem::system("the log cannot be read", &err));
        }
    }

    fn resize(&mut self, index: usize, size: Size) {
        if let (Some(_), Phase::Alive(child)) =
            (self.clients.get(index).and_then(|one| one.writer.as_ref()), &self.phase)
        {
            child.resize(size);
        }
    }

    /// Why nothing can be sent.
    fn no_input(&self) -> Option<Problem> {
        let name = self.full_name();
        let Phase::Alive(child) = &self.phase else { return Some(not_running(&self.state)) };
        if child.exit.is_some() {
            return Some(not_running(&self.state));
        }
        let is_open = child.stdin.is_some() || child.broken.is_some_and(|since| since.elapsed() < BROKEN);
        let message = match (self.spec.stdin, self.spec.tty) {
            _ if is_open => return None,
            (Stdin::Closed, None) => format!("session {name} has no stdin pipe"),
            _ => format!("session {name} has no stdin pipe any more: its end was sent, or the command closed it"),
        };
        Some(Problem::new(ProblemKind::NoStdin, message))
    }

    fn announce(&mut self, index: usize, send: Send) {
        let deadline = Instant::now() + Duration::from_millis(send.timeout_ms).min(LONGEST_WAIT);
        let Some(client) = self.clients.get(index).map(|client| client.id) else { return };
        if send.bytes > MAX_SEND {
            let message = format!("{} bytes are sent at once, and {MAX_SEND} is the most", send.bytes);
            return self.refuse(index, &Problem::new(ProblemKind::Protocol, message));
        }
        let known = self.input.known(&send.id, client, deadline);
        if known == Known::New
            && (send.bytes > 0 || send.eof)
            && let Some(problem) = self.no_input()
        {
            return self.refuse(index, &problem);
        }
        let store = match self.input.store(send.bytes) {
            Ok(store) => store,
            Err(err) => return self.refuse(index, &Problem::system("there is no room for the input", &err)),
        };
        if let Known::Sent(bytes) = known {
            let sent = Sent { id: send.id.clone(), bytes };
            self.clients[index].tell(Kind::Sent, &sent);
        }
        self.clients[index].arriving = Some(Arriving { send, store, deadline, is_known: known != Known::New });
    }

    /// What belongs to a send that was announced, or else to an attached writer.
    fn take_data(&mut self, index: usize, payload: &[u8]) {
        let Some(client) = self.clients.get_mut(index) else { return };
        if let Some(arriving) = &mut client.arriving {
            if arriving.is_known {
                return;
            }
            let filled = match arriving.store.length() + payload.len() as u64 > arriving.send.bytes {
                true => Err(Problem::new(ProblemKind::Protocol, "more bytes are sent than were announced")),
                false => Input::fill(&mut arriving.store, payload)
                    .map_err(|err| Problem::system("there is no room for the input", &err)),
            };
            if let Err(problem) = filled {
                client.refuse(&problem);
            }
            return;
        }
        let Some((offset, bytes)) = payload.split_first_chunk::<8>() else { return };
        self.write(index, u64::from_be_bytes(*offset), bytes, false);
    }

    fn take_end(&mut self, index: usize) {
        let Some(client) = self.clients.get_mut(index) else { return };
        let id = client.id;
        let Some(arriving) = client.arriving.take() else {
            let Some(writer) = client.writer.clone() else { return };
            let at = self.input.writer_at(&writer);
            return self.write(index, at, &[], true);
        };
        if arriving.is_known {
            return;
        }
        let Arriving { send, store, deadline, .. } = arriving;
        if store.length() != send.bytes {
            let message = format!("{} bytes were sent, and {} were announced", store.length(), send.bytes);
            return self.refuse(index, &Problem::new(ProblemKind::Protocol, message));
        }
        // Nothing touches nothing.
        if send.bytes == 0 && !send.eof {
            return self.clients[index].tell(Kind::Sent, &Sent { id: send.id, bytes: 0 });
        }
        // It may have ended since the announcement.
        if let Some(problem) = self.no_input() {
            return self.refuse(index, &problem);
        }
        self.active = Instant::now();
        self.input.send(send.id, store, send.eof, id, deadline);
        self.pump();
    }

    fn write(&mut self, index: usize, offset: u64, bytes: &[u8], eof: bool) {
        let Some(client) = self.clients.get_mut(index) else { return };
        // One that was taken over may not have heard of it yet.
        let Some(writer) = client.writer.clone() else { return };
        if !self.input.write(&writer, client.id, offset, bytes, eof) {
            return client.refuse(&Problem::new(ProblemKind::Protocol, "there is a gap in what was written"));
        }
        self.active = Instant::now();
        self.pump();
    }

    /// Gives the command what it takes now.
    pub(super) fn pump(&mut self) {
        let mut outcomes = Vec::new();
        if let Phase::Alive(child) = &mut self.phase {
            match child.stdin.as_ref().map(|stdin| self.input.pump(stdin, child.is_tty(), &mut outcomes)) {
                Some(Ok(true)) => {
                    child.stdin = None;
                    self.input.fail(&mut outcomes);
                }
                // What waits is told soon: why it has closed its end.
                Some(Err(_)) => (child.stdin, child.broken) = (None, Some(Instant::now())),
                Some(Ok(false)) | None => {}
            }
        }
        self.tell_outcomes(outcomes);
    }

    pub(super) fn tell_outcomes(&mut self, outcomes: Vec<Outcome>) {
        for outcome in outcomes {
            match outcome {
                Outcome::Sent { client, id, bytes } => self.to(client, |one| one.tell(Kind::Sent, &Sent { id, bytes })),
                Outcome::Taken { client, offset } => self.to(client, |one| one.tell_taken(offset)),
                Outcome::TimedOut { client, bytes, written } => {
                    let name = self.full_name();
                    let message = match written {
                        0 => format!("session {name} did not read in time: nothing was sent"),
                        _ => format!(
                            "session {name} did not read in time: {written} of {bytes} bytes were written, and the rest follows when \
                             it reads"
                        ),
                    };
                    let problem = Problem { written: Some(written), ..Problem::new(ProblemKind::Timeout, message) };
                    self.to(Some(client), |one| one.refuse(&problem));
                }
                Outcome::Broken { client, written } => {
                    let problem = match self.no_input() {
                        Some(problem) => Problem { written: Some(written), ..problem },
                        None => Problem::new(
                            ProblemKind::NoStdin,
                            format!("session {} has no stdin pipe", self.full_name()),
                        ),
                    };
                    self.to(Some(client), |one| one.refuse(&problem));
                }
            }
        }
    }

    fn to(&mut self, client: Option<ClientId>, tell: impl FnOnce(&mut Client)) {
        if let Some(client) = self.clients.iter_mut().find(|one| Some(one.id) == client) {
            tell(client);
        }
    }

    fn stop_for(&mut self, index: usize, stop: &Stop) {
        let Some(client) = self.clients.get_mut(index) else { return };
        client.waits = true;
        let signal = Signal::from_named_raw(stop.signal);
        match signal {
            Some(signal) => self.stop(signal, Duration::from_millis(stop.timeout_ms)),
            None => {
                let problem = Problem::new(ProblemKind::Protocol, format!("{} is no signal", stop.signal));
                self.refuse(index, &problem);
            }
        }
    }

    /// Tells clients what there is to tell, and drops those that are gone.
    pub(super) fn serve(&mut self) {
        let is_over = self.is_over();
        let state = if is_over { Some(self.state()) } else { None };
        let mut buffer = Vec::new();
        for client in &mut self.clients {
            loop {
                if let Err(err) = client.fill(&self.log, &mut buffer) {
                    client.refuse(&Problem::system("the log cannot be read", &err));
                }
                if let Some(state) = &state {
                    client.tell_the_end(state, &self.log);
                }
                // Either it takes no more now, or there is no more.
                let had_more = client.has_more();
                client.flush();
                if client.has_more() || !had_more {
                    break;
                }
            }
        }
        self.clients.retain(|client| !client.is_gone());
        if self.clients.is_empty() {
            self.clients.shrink_to(16);
        }
        debug_assert!(!is_over || self.state.status != Status::Running);
    }
}
