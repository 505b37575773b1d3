//! Who connects, and by what.

use drawbridge_engine::io::{Claims, ConnId, Opened};
use drawbridge_protocol::Encoding;
use serde_json::{Value, json};

/// The connection of this number.
pub fn conn(at: usize) -> ConnId {
    ConnId { index: at as u32, generation: 1 }
}

/// What a token says that names a player and a team.
pub fn claims(player: &str, team: &str) -> Claims {
    claims_of(&json!({ "sub": player, "team": team }))
}

/// What a token says; `sub` names the player.
pub fn claims_of(json: &Value) -> Claims {
    let player = json["sub"].as_str().unwrap();
    Claims { player: player.into(), expires_unix_ms: None, json: json.to_string().into() }
}

/// A socket from this host that reads JSON. Who has no claims sends `CONNECT` first.
pub fn opened(conn: ConnId, connection: u64, claims: Option<Claims>) -> Opened {
    Opened {
        conn,
        connection,
        session: u128::from(connection),
        encoding: Encoding::Json,
        deflate: None,
        address: [127, 0, 0, 1].into(),
        wait_for_connect: claims.is_none(),
        must_resume: false,
        token: claims.map(Ok),
    }
}
