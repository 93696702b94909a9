//! The command's life: started, printing, ended, started again, stopped.

use std::time::{Duration, Instant};

use rustix::process::{Signal, WaitStatus, geteuid};

use super::child::{Child, Taken, read};
use super::requests::BROKEN;
use super::{Keeper, Phase};
use crate::frame::Stream;
use crate::message::{Exit, Problem, Restart, Spec, State, Status, now};

/// What a command left behind has so long to end by itself.
const LEFTOVERS: Duration = Duration::from_secs(2);
/// Between two looks whether it is gone, once it was killed.
const AGAIN: Duration = Duration::from_millis(50);
/// The first pause before a restart; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest one.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// A command that ran for so long did not end soon.
const LONG_LIFE: Duration = Duration::from_secs(600);
/// How long a command that is stopped because it is idle has to end.
const IDLE_GRACE: Duration = Duration::from_secs(10);
/// How much of what a command printed last is read after its end, in bytes: it may have left somebody who goes on for ever.
const LAST_WORDS: usize = 4 << 20;

/// The state before the first start.
pub(super) fn first_state(spec: &Spec) -> State {
    State {
        name: spec.name.clone(),
        id: spec.id.clone(),
        status: Status::Running,
        pid: None,
        pid_start: None,
        started_at: now(),
        ended_at: None,
        exit: None,
        restarts: 0,
        restart_at: None,
        attachable: true,
        stdin: spec.stdin,
        tty: spec.tty.is_some(),
        last_output_at: None,
        idle_ms: None,
        waiting_for_input: None,
        declared: spec.declared.clone(),
        command: spec.command.clone(),
        uid: geteuid().as_raw(),
        lost: 0,
        stopped: false,
        idle_stopped: false,
        why: None,
        version: crate::frame::VERSION,
    }
}

impl Keeper {
    /// Starts the command.
    pub(super) fn launch(&mut self) -> Result<(), Problem> {
        let child = Child::start(&self.spec, &self.dir)?;
        self.reaper.watch();
        self.active = Instant::now();
        self.state.status = Status::Running;
        self.state.started_at = now();
        (self.state.pid, self.state.pid_start) = (Some(child.pid.as_raw_nonzero().get()), child.start);
        (self.state.restart_at, self.state.why) = (None, None);
        self.phase = Phase::Alive(child);
        Ok(())
    }

    /// Reads what the command printed.
    pub(super) fn read_output(&mut self, stream: Stream) {
        let Phase::Alive(child) = &mut self.phase else { return };
        let Some(output) = child.output(stream) else { return };
        match read(output, &mut self.buffer) {
            Taken::Some(length) => {
                self.log.append(stream, now(), self.buffer.get(..length).unwrap_or_default());
                self.note_output();
            }
            Taken::Nothing => {}
            Taken::End => child.close(stream),
        }
    }

    /// Takes away who has ended; when that is the command, its end is known.
    pub(super) fn reap(&mut self) {
        let ended = self.reaper.take();
        let Phase::Alive(child) = &mut self.phase else { return };
        if let Some((_, status)) = ended.iter().find(|(pid, _)| *pid == child.pid) {
            let exit = exit_of(*status, child.was_short_of_memory());
            child.exit = Some(exit);
            child.stdin = None;
            self.state.exit = Some(exit);
            self.state.ended_at = Some(now());
            (self.state.pid, self.state.pid_start) = (None, None);
            // What it printed last comes before its end.
            self.read_last_words();
            self.end_leftovers(Signal::TERM, LEFTOVERS);
        } else if child.exit.is_some() {
            self.end_leftovers(Signal::CONT, Duration::ZERO);
        }
    }

    fn read_last_words(&mut self) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let mut total = 0;
            while total < LAST_WORDS {
                let Phase::Alive(child) = &self.phase else { return };
                let Some(output) = child.output(stream) else { break };
                let Taken::Some(length) = read(output, &mut self.buffer) else { break };
                self.log.append(stream, now(), self.buffer.get(..length).unwrap_or_default());
                self.state.last_output_at = Some(now());
                total += length;
            }
        }
    }

    /// Once nothing is left of the command it is over, or begins anew; until then what is left is told to end.
    fn end_leftovers(&mut self, signal: Signal, patience: Duration) {
        let Phase::Alive(child) = &mut self.phase else { return };
        if child.signal_leftovers(signal) {
            let by = Instant::now() + patience;
            // A later look never puts off the KILL that was set.
            child.kill_at = Some(child.kill_at.map_or(by, |set| if patience.is_zero() { set } else { by }));
            return;
        }
        let exit = child.exit.unwrap_or_default();
        self.on_end(exit);
    }

    fn on_end(&mut self, exit: Exit) {
        self.read_last_words();
        let lived = Duration::from_millis(now().saturating_sub(self.state.started_at));
        self.phase = Phase::Over;
        let again = match self.spec.restart {
            _ if self.state.stopped => false,
            Restart::No => false,
            Restart::OnFailure => exit.code != Some(0),
            Restart::Always => true,
        };
        self.short_lives = if lived >= LONG_LIFE { 0 } else { self.short_lives.saturating_add(1) };
        match again {
            true => self.back_off(),
            false => self.finish(),
        }
        let mut outcomes = Vec::new();
        self.input.fail(&mut outcomes);
        self.tell_outcomes(outcomes);
    }

    fn back_off(&mut self) {
        let doublings = self.short_lives.saturating_sub(1).min(16);
        let pause = (FIRST_PAUSE * (1 << doublings)).min(LONGEST_PAUSE);
        self.state.status = Status::BackingOff;
        self.state.restart_at = Some(now() + u64::try_from(pause.as_millis()).unwrap_or_default());
        self.phase = Phase::BackingOff(Instant::now() + pause);
        let _ = self.save();
    }

    fn finish(&mut self) {
        (self.state.status, self.state.attachable, self.state.restart_at) = (Status::Exited, false, None);
        (self.phase, self.farewell) = (Phase::Over, Some(Instant::now()));
        let _ = self.save();
    }

    /// Does what is due.
    pub(super) fn on_time(&mut self, now: Instant) {
        let mut outcomes = Vec::new();
        self.input.expire(now, &mut outcomes);
        if matches!(&self.phase, Phase::Alive(child) if child.exit.is_none() && child.broken.is_some_and(|since| now >= since + BROKEN))
        {
            self.input.fail(&mut outcomes);
        }
        self.tell_outcomes(outcomes);
        let (end, max) = (self.log.end(), self.log.max());
        for client in &mut self.clients {
            if client.behind(end).is_some_and(|behind| behind > max / 2) && now >= client.moved + super::PATIENCE {
                client.give_up_on();
            }
        }
        let is_idle = self.idle_at().is_some_and(|at| now >= at);
        match &mut self.phase {
            Phase::Alive(child) if child.kill_at.is_some_and(|at| now >= at) => {
                let has_ended = child.exit.is_some();
                child.signal(Signal::KILL);
                child.kill_at = None;
                if has_ended {
                    self.end_leftovers(Signal::KILL, AGAIN);
                } else if child.signal_leftovers(Signal::KILL) {
                    child.kill_at = Some(now + AGAIN);
                }
            }
            Phase::Alive(child) if child.exit.is_none() && is_idle => {
                (self.state.idle_stopped, self.state.why) = (true, Some("it was idle".to_owned()));
                self.stop(Signal::TERM, IDLE_GRACE);
            }
            Phase::BackingOff(until) if now >= *until => {
                self.state.restarts = self.state.restarts.saturating_add(1);
                if let Err(problem) = self.launch() {
                    self.short_lives = self.short_lives.saturating_add(1);
                    self.state.why = Some(problem.message);
                    self.back_off();
                }
                let _ = self.save();
            }
            _ => {}
        }
    }

    /// Ends the command: this signal, and KILL after that time. It is not started again.
    pub(super) fn stop(&mut self, signal: Signal, patience: Duration) {
        self.state.stopped = true;
        match &mut self.phase {
            Phase::Alive(child) => {
                child.signal(signal);
                // One that is frozen hears nothing else.
                child.signal(Signal::CONT);
                let by = Instant::now() + patience;
                child.kill_at = Some(child.kill_at.map_or(by, |set| set.min(by)));
            }
            Phase::BackingOff(_) => self.finish(),
            Phase::Over => {}
        }
    }
}

fn exit_of(status: WaitStatus, short_of_memory: bool) -> Exit {
    let signal = status.terminating_signal();
    Exit { code: status.exit_status(), signal, oom_killed: signal == Some(Signal::KILL.as_raw()) && short_of_memory }
}
