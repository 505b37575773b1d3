//! Commands that are sent together, and what of them waits for what.

use redis::{Cmd, Pipeline, ToRedisArgs};

/// When a command is sent, where the keys of a batch belong to several masters of a Cluster: all commands of a step are
/// answered before the next step is sent. One server gets all of them at once, in the order in which they were added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// Before all others: what must be known before something is done.
    Before,
    Main,
    /// After all others: what is over when they are done.
    After,
}

impl Step {
    pub(super) const ALL: [Step; 3] = [Step::Before, Step::Main, Step::After];
}

/// See the module. An error of one command hides no other's answer.
#[derive(Clone)]
pub(super) struct Batch {
    pipeline: Pipeline,
    steps: Vec<Step>,
}

impl Batch {
    pub(super) fn new() -> Self {
        Batch::with_capacity(0)
    }

    pub(super) fn with_capacity(commands: usize) -> Self {
        let mut pipeline = Pipeline::with_capacity(commands);
        pipeline.ignore_errors();
        Batch { pipeline, steps: Vec::with_capacity(commands) }
    }

    /// A batch of one command.
    pub(super) fn of(command: Cmd) -> Self {
        let mut batch = Batch::with_capacity(1);
        batch.push(Step::Main, command);
        batch
    }

    /// Begins a command.
    pub(super) fn cmd(&mut self, name: &str) -> &mut Self {
        self.begin(Step::Main, name)
    }

    /// Begins a command of this step.
    pub(super) fn begin(&mut self, step: Step, name: &str) -> &mut Self {
        self.push(step, redis::cmd(name));
        self
    }

    /// Adds an argument, or several, to the command that was begun last.
    pub(super) fn arg<T: ToRedisArgs>(&mut self, argument: T) -> &mut Self {
        self.pipeline.arg(argument);
        self
    }

    fn push(&mut self, step: Step, command: Cmd) {
        self.pipeline.add_command(command);
        self.steps.push(step);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.steps.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// All of it, in the order in which it was added.
    pub(super) fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    /// Each command and its step, in the order in which they were added.
    pub(super) fn commands(&self) -> impl Iterator<Item = (Step, &Cmd)> {
        self.steps.iter().copied().zip(self.pipeline.cmd_iter())
    }
}
