//! What a part of the broker sends commands through: one connection; in a Cluster, one to the master of its home slot and, as
//! far as they are needed, others to other masters ([`SlotRouter`]).

use redis::{Cmd, RedisResult, Value};

use super::batch::Batch;
use super::command_connection::{CommandConnection, Loaded, answer_of};
use super::connect::Broken;
use super::connector::Connector;
use super::library::Library;
use super::slot_router::SlotRouter;

/// See the module.
pub(super) struct Commands {
    home: CommandConnection,
    router: Option<SlotRouter>,
}

impl Commands {
    /// Connects; `part` names the connections in `CLIENT LIST`.
    pub(super) async fn open(connector: &Connector, part: &str) -> Result<Commands, Broken> {
        let address = connector.address().await?;
        let open = CommandConnection::open(connector.settings.clone(), address.as_ref(), part);
        let home = tokio::select! {
            home = open => home,
            () = connector.left(address.as_ref()) => Err(Broken::Left),
        };
        if home.is_err() {
            connector.doubt();
        }
        Ok(Commands { home: home?, router: SlotRouter::new(connector, address, part) })
    }

    /// The result of each command, in their order; or why it is not known.
    pub(super) async fn query(&mut self, batch: &Batch) -> Result<Vec<RedisResult<Value>>, Broken> {
        match &mut self.router {
            None => self.home.query(batch.pipeline()).await,
            Some(router) => router.query(&mut self.home, batch).await,
        }
    }

    /// Returns Redis' answer to one command, or its error, or why the outcome is unknown.
    pub(super) async fn ask(&mut self, command: &Cmd) -> Result<Result<Value, String>, Broken> {
        Ok(answer_of(self.query(&Batch::of(command.clone())).await?))
    }

    /// Ensures that Redis has the functions, as [`CommandConnection::load`] does: at home, and wherever else there is a
    /// connection.
    pub(super) async fn load(
        &mut self,
        library: &Library,
        begins: bool,
        may_replace: bool,
    ) -> Result<(Loaded, Result<(), String>), Broken> {
        let (mut done, mut usable) = self.home.load(library, begins, may_replace).await?;
        if let Some(router) = &mut self.router {
            for other in router.others() {
                // One that breaks is found broken by the next command for it.
                let Ok((there, usable_there)) = other.load(library, begins, may_replace).await else {
                    continue;
                };
                if there != Loaded::Kept {
                    done = there;
                }
                usable = usable.and(usable_there);
            }
        }
        Ok((done, usable))
    }

    /// Waits for the end of the connection, or until another one is better.
    pub(super) async fn ended(&mut self) -> Broken {
        match &self.router {
            None => self.home.ended().await,
            Some(router) => tokio::select! {
                broken = self.home.ended() => {
                    router.doubt();
                    broken
                }
                () = router.home_moved() => Broken::Left,
            },
        }
    }
}
