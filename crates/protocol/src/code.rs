//! The two closed vocabularies of the contract: error codes (`ERROR.code`) and WebSocket close codes.
//! Their meaning is the contract's §8; what causes them is the engine's business.

use std::fmt;

/// The codes of `ERROR` messages (contract §8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// Not a message of the contract; the text names the field.
    BadMessage,
    /// A part of the contract that this server does not do (yet, or as configured).
    Unsupported,
    /// No token, or a bad one.
    Unauthenticated,
    /// The token's `exp` has passed.
    TokenExpired,
    /// Rights do not allow it.
    Forbidden,
    /// The channel name or pattern is not well formed.
    ChannelInvalid,
    /// The filter expression or area is not well formed.
    FilterInvalid,
    /// There is no such subscription to act on.
    NotSubscribed,
    /// Too many subscriptions.
    LimitExceeded,
    /// Over `message_bytes`.
    TooLarge,
    /// A rate limit; `retry_after_ms` is when to try again.
    RateLimited,
    /// Game logic refused.
    Rejected,
    /// Game logic failed or timed out.
    LogicUnavailable,
    /// Redis is away.
    BrokerUnavailable,
    /// Redis answered with an error.
    BrokerRefused,
    /// A fault of the server.
    Internal,
}

impl ErrorCode {
    /// Every code, in the order of the contract's table.
    pub const ALL: [ErrorCode; 16] = [
        ErrorCode::BadMessage,
        ErrorCode::Unsupported,
        ErrorCode::Unauthenticated,
        ErrorCode::TokenExpired,
        ErrorCode::Forbidden,
        ErrorCode::ChannelInvalid,
        ErrorCode::FilterInvalid,
        ErrorCode::NotSubscribed,
        ErrorCode::LimitExceeded,
        ErrorCode::TooLarge,
        ErrorCode::RateLimited,
        ErrorCode::Rejected,
        ErrorCode::LogicUnavailable,
        ErrorCode::BrokerUnavailable,
        ErrorCode::BrokerRefused,
        ErrorCode::Internal,
    ];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorCode::BadMessage => "BAD_MESSAGE",
            ErrorCode::Unsupported => "UNSUPPORTED",
            ErrorCode::Unauthenticated => "UNAUTHENTICATED",
            ErrorCode::TokenExpired => "TOKEN_EXPIRED",
            ErrorCode::Forbidden => "FORBIDDEN",
            ErrorCode::ChannelInvalid => "CHANNEL_INVALID",
            ErrorCode::FilterInvalid => "FILTER_INVALID",
            ErrorCode::NotSubscribed => "NOT_SUBSCRIBED",
            ErrorCode::LimitExceeded => "LIMIT_EXCEEDED",
            ErrorCode::TooLarge => "TOO_LARGE",
            ErrorCode::RateLimited => "RATE_LIMITED",
            ErrorCode::Rejected => "REJECTED",
            ErrorCode::LogicUnavailable => "LOGIC_UNAVAILABLE",
            ErrorCode::BrokerUnavailable => "BROKER_UNAVAILABLE",
            ErrorCode::BrokerRefused => "BROKER_REFUSED",
            ErrorCode::Internal => "INTERNAL",
        }
    }

    /// Whether sending the same request again later can succeed.
    pub fn retryable(self) -> bool {
        matches!(
            self,
            ErrorCode::RateLimited
                | ErrorCode::LogicUnavailable
                | ErrorCode::BrokerUnavailable
                | ErrorCode::Internal
        )
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A WebSocket close code: those of RFC 6455 §7.4.1 that the server sends, and the contract's own (§8).
/// Clients reconnect after 4000–4499 and do not after 4500–4999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum CloseCode {
    /// The purpose is fulfilled.
    Normal = 1000,
    /// The endpoint goes away.
    GoingAway = 1001,
    /// A WebSocket protocol error.
    ProtocolError = 1002,
    /// A frame of the wrong kind for the sub-protocol.
    UnsupportedData = 1003,
    /// Text that is not UTF-8.
    InvalidPayload = 1007,
    /// Over four times `message_bytes`.
    MessageTooBig = 1009,
    /// A fault of the server.
    InternalError = 1011,
    /// The node drains; reconnect, to another one.
    Drain = 4000,
    /// The outbound queue passed its bound.
    SlowConsumer = 4001,
    /// Two heartbeats stayed unanswered.
    HeartbeatMissed = 4002,
    /// The node has no room.
    Overloaded = 4003,
    /// The token expired while connected; reconnect with a fresh one.
    TokenExpired = 4004,
    /// No token in time, or a bad one.
    Unauthenticated = 4500,
    /// A service disconnected the player.
    Kicked = 4502,
    /// Ten bad messages in a row.
    ProtocolAbuse = 4503,
    /// Persistent abuse of rate limits.
    RateAbuse = 4504,
    /// The session was taken up by another connection.
    SessionTakenOver = 4505,
    /// The player has too many connections.
    TooManyConnections = 4506,
}

impl CloseCode {
    /// The number on the wire.
    pub fn as_u16(self) -> u16 {
        self as u16
    }
}
