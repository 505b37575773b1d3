//! `idle`: a crowd that has joined and then does nothing but answer pings: what a node holds for it is what a
//! connection costs. Each has three subscriptions by claims: its own player's channel, a room and a game.

use std::io;

use clap::Args;
use serde::Serialize;
use serde_json::Map;

use crate::client::{self, Crowd, Join, Member, Subscription, Target};

/// The flags of `idle`. The node's `auto_subscribe` must be `player:{sub}`, `room:{room}` and `game:{game}`.
#[derive(Args)]
pub(crate) struct IdleArgs {
    #[command(flatten)]
    target: Target,
    /// How many players share a room
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    room_size: u32,
    /// How many games there are
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    games: u32,
}

/// Joins, then holds until standard input ends.
pub(crate) fn run(args: IdleArgs) -> io::Result<()> {
    let crowd = Idlers {
        first: args.target.first as usize,
        room_size: args.room_size as usize,
        games: args.games as usize,
        events: 0,
    };
    client::run(args.target, Join::Claims, crowd)
}

struct Idlers {
    first: usize,
    room_size: usize,
    games: usize,
    events: u64,
}

#[derive(Serialize)]
pub(crate) struct Report {
    events: u64,
}

impl Crowd for Idlers {
    type Report = Report;

    fn member(&self, index: usize) -> Member {
        let number = self.first + index;
        let player = format!("idle-{number}");
        let (room, game) = (number / self.room_size, number % self.games);
        let channels = [format!("player:{player}"), format!("room:{room}"), format!("game:{game}")];
        Member {
            subscriptions: channels.into_iter().map(Subscription::to).collect(),
            claims: Map::from_iter([
                ("room".into(), room.to_string().into()),
                ("game".into(), game.to_string().into()),
            ]),
            player,
        }
    }

    fn event(&mut self, _index: usize, _now: u64, _text: &[u8]) {
        self.events += 1;
    }

    fn report(&mut self) -> Report {
        Report { events: std::mem::take(&mut self.events) }
    }
}
