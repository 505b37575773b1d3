//! Which fields each server message has, in the order of the contract.

use crate::message::{ErrorMessage, PresenceList, ServerMessage, SubscriptionInfo, Welcome};
use crate::writer::MapWriter;

/// About how many bytes the message takes.
pub(super) fn capacity(message: &ServerMessage<'_>) -> usize {
    match message {
        ServerMessage::Welcome(welcome) => 512 + 96 * welcome.subscriptions.len(),
        ServerMessage::Pong { t, .. } => 96 + t.map_or(0, |t| t.get().len()),
        ServerMessage::Error(error) => 160 + error.message.len() + error.hint.map_or(0, str::len),
        ServerMessage::Presence(page) => {
            160 + page.players.iter().map(|(player, _)| player.len() + 40).sum::<usize>()
        }
        ServerMessage::PresenceChanged { joined, left, .. } => {
            160 + joined.iter().chain(*left).map(|player| player.len() + 4).sum::<usize>()
        }
        ServerMessage::ViewLeave { keys, .. } => 160 + keys.iter().map(|key| key.len() + 4).sum::<usize>(),
        _ => 160,
    }
}

pub(super) fn write(message: &ServerMessage<'_>, map: &mut MapWriter<'_>) {
    match message {
        ServerMessage::Welcome(welcome) => write_welcome(welcome, map),
        ServerMessage::Subscribed { id, subscription, by_server } => {
            map.text("type", "CHANNEL_SUBSCRIBED");
            map.id(*id);
            write_subscription(subscription, map);
            by(*by_server, map);
        }
        ServerMessage::Unsubscribed { id, channel, reason, by_server } => {
            map.text("type", "CHANNEL_UNSUBSCRIBED");
            map.id(*id);
            map.text("channel", channel);
            map.text("reason", reason);
            by(*by_server, map);
        }
        ServerMessage::FilterUpdated { id, channel } => {
            map.text("type", "FILTER_UPDATED");
            map.id(Some(id));
            map.text("channel", channel);
        }
        ServerMessage::ViewLeave { channel, keys, reason } => {
            map.text("type", "VIEW_LEAVE");
            map.text("channel", channel);
            map.texts("keys", keys);
            map.text("reason", reason);
        }
        ServerMessage::Published { id, channel, offset, is_local } => {
            map.text("type", "EVENT_PUBLISHED");
            map.id(Some(id));
            map.text("channel", channel);
            map.number_if("offset", *offset);
            map.flag("local", *is_local);
        }
        ServerMessage::TokenRefreshed { id, expires_ms } => {
            map.text("type", "TOKEN_REFRESHED");
            map.id(Some(id));
            map.number_if("expires_ms", *expires_ms);
        }
        ServerMessage::Pong { id, t, server_time_ms } => {
            map.text("type", "PONG");
            map.id(Some(id));
            map.json_if("t", t.map(|t| t.get()));
            map.number("server_time_ms", *server_time_ms);
        }
        ServerMessage::Status { broker } => {
            map.text("type", "STATUS");
            map.text("broker", broker);
        }
        ServerMessage::Resync { channel, reason, epoch, offset } => {
            map.text("type", "RESYNC");
            map.text("channel", channel);
            map.text("reason", reason);
            map.text_if("epoch", *epoch);
            map.number_if("offset", *offset);
        }
        ServerMessage::Presence(page) => write_presence(page, map),
        ServerMessage::PresenceChanged { channel, joined, left, reset } => {
            map.text("type", "PRESENCE_CHANGED");
            map.text("channel", channel);
            map.texts("joined", joined);
            map.texts("left", left);
            map.flag("reset", *reset);
        }
        ServerMessage::Position { channel, epoch, offset } => {
            map.text("type", "POSITION");
            map.text("channel", channel);
            map.text("epoch", epoch);
            map.number("offset", *offset);
        }
        ServerMessage::Goodbye { reason, reconnect_in_ms } => {
            map.text("type", "GOODBYE");
            map.text("reason", reason);
            map.number("reconnect_in_ms", *reconnect_in_ms);
        }
        ServerMessage::Error(error) => write_error(error, map),
    }
}

fn write_welcome(welcome: &Welcome<'_>, map: &mut MapWriter<'_>) {
    map.text("type", "WELCOME");
    map.id(welcome.id);
    map.text("connection", welcome.connection);
    map.text("session", welcome.session);
    map.boolean("resumed", welcome.resumed);
    map.text("player", welcome.player);
    map.text("node", welcome.node);
    map.number("server_time_ms", welcome.server_time_ms);
    map.number("heartbeat_ms", welcome.heartbeat_ms);
    map.number("resume_window_ms", welcome.resume_window_ms);
    map.map("limits", |limits| {
        limits.number("message_bytes", welcome.message_bytes);
        limits.number("subscriptions", welcome.subscriptions_limit);
    });
    map.maps("subscriptions", &welcome.subscriptions, write_subscription);
}

fn write_presence(page: &PresenceList<'_>, map: &mut MapWriter<'_>) {
    map.text("type", "PRESENCE");
    map.id(Some(page.id));
    map.text("channel", page.channel);
    map.maps("players", page.players, |(player, connections), map| {
        map.text("player", player);
        map.number("connections", *connections);
    });
    map.number("total", page.total);
    map.text_if("next", page.next);
}

fn write_subscription(subscription: &SubscriptionInfo<'_>, map: &mut MapWriter<'_>) {
    map.text("channel", subscription.channel);
    map.flag("auto", subscription.auto);
    map.flag("pending", subscription.pending);
    map.flag("pattern", subscription.pattern);
    map.text_if("epoch", subscription.epoch);
    map.number_if("offset", subscription.offset);
    if let Some(recovered) = subscription.recovered {
        map.boolean("recovered", recovered);
    }
}

fn by(server: bool, map: &mut MapWriter<'_>) {
    map.text_if("by", server.then_some("server"));
}

fn write_error(error: &ErrorMessage<'_>, map: &mut MapWriter<'_>) {
    map.text("type", "ERROR");
    map.id(error.id);
    map.text("code", error.code.as_str());
    map.text("message", error.message);
    map.text_if("channel", error.channel);
    map.number_if("retry_after_ms", error.retry_after_ms);
    map.text_if("outcome", error.outcome);
    map.text_if("reason", error.reason);
    map.number_if("position", error.position);
    map.text_if("hint", error.hint);
    map.boolean("retryable", error.code.retryable());
}
