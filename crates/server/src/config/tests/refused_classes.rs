//! Wrong classes of channels: one row each.

use super::refused::check;
use super::*;

#[test]
fn classes_are_judged() {
    check(
        "[[channel]]\nsubscribe = \"true\"",
        "f.toml:1:1: a `[[channel]]` has no `name`; say which channels it is for: name = \"room:{room}\"",
    );
    check(
        "[[channel]]\nname = \"a*b\"",
        "f.toml:2:8: `channel.name` is not a class name: \"a*b\": the `*` at byte 1 takes the rest of the name, so it must be at the end; it is written like \"room:{room}\" or \"chat:*\"",
    );
    for (name, problem) in [
        ("a{x}{y}", "the value of `{x}` has no end: put a character like `:`, `.` or `-` behind it"),
        ("a.{x}*", "the value of `{x}` has no end: put a character like `:`, `.` or `-` behind it"),
        ("{x}\u{e9}", "the value of `{x}` would end at `\u{e9}`; it can end at ASCII characters only"),
    ] {
        check(
            &format!("[[channel]]\nname = \"{name}\""),
            &format!(
                "f.toml:2:8: `channel.name` is not a class name: \"{name}\": {problem}; it is written like \"room:{{room}}\" or \"chat:*\""
            ),
        );
    }
    check(
        "[[channel]]\nname = \"a.{x}-{y}\"\n[[channel]]\nname = \"a.{u}-{v}\"",
        "f.toml:4:8: `channel.name` matches the same channels as \"a.{x}-{y}\": \"a.{u}-{v}\"; the first class whose name matches wins, so this one never would",
    );
    for name in ["*", "{room}", "{a}:{b}"] {
        check(
            &format!("[[channel]]\nname = \"{name}\"\npatterns = true"),
            "f.toml:3:12: `channel.patterns` cannot be true for a class whose name begins with a placeholder or `*`: the node would have to receive every channel in Redis; give the class a fixed beginning, like \"room:{room}\", or leave `patterns` out",
        );
    }
    check(
        "[limits]\npatterns_per_player = 0",
        "f.toml:2:23: `limits.patterns_per_player` is out of bounds: 0; it may be 1 to 100000",
    );
    let never = "the first class whose name matches wins, so this one never would";
    check(
        "[[channel]]\nname = \"room:{room}\"\n[[channel]]\nname = \"room:{room}\"",
        &format!("f.toml:4:8: `channel.name` is given twice: \"room:{{room}}\"; {never}"),
    );
    check(
        "[[channel]]\nname = \"room:{room}\"\n[[channel]]\nname = \"room:{id}\"",
        &format!(
            "f.toml:4:8: `channel.name` matches the same channels as \"room:{{room}}\": \"room:{{id}}\"; {never}"
        ),
    );
    check(
        "[[channel]]\nname = \"room:{room}\"\nforward = \"actions:{rom}\"",
        "f.toml:3:11: `channel.forward` names `{rom}`, which the class name does not; did you mean `{room}`?",
    );
    check(
        "[[channel]]\nname = \"chat:*\"\nforward = \"actions:{room}\"",
        "f.toml:3:11: `channel.forward` names `{room}`, which the class name does not; the class name `chat:*` has no placeholders",
    );
    check(
        "[[channel]]\nname = \"a\"\npayload = \"envelop\"",
        "f.toml:3:11: `channel.payload` is not known: \"envelop\"; did you mean \"envelope\"?",
    );
    check(
        "[[channel]]\nname = \"a\"\nsubscribe = true",
        "f.toml:3:13: `channel.subscribe` is true or false, not a string; put it in quotes",
    );
}

#[test]
fn expressions_are_judged_where_they_stand() {
    for (line, column) in [
        ("subscribe = \"params.room in me.rooms &&\"", 40),
        ("subscribe = \"data.x == 1\"", 14),
        ("publish = 'event == \"hit\" && damage > 3'", 30),
        ("view = \"data.team = me.team\"", 19),
        ("view = \"\"\"data.team = me.team\"\"\"", 8),
    ] {
        let said = report(&format!("[[channel]]\nname = \"a:{{room}}\"\n{line}"));
        assert!(said.starts_with(&format!("f.toml:3:{column}: `channel.")), "{said}");
        let picture: Vec<_> = said.lines().skip(1).collect();
        let [source, mark] = picture[..] else { panic!("{said}") };
        assert!(
            line.contains(source.trim()) && mark.trim() == "^" && mark.len() <= source.len() + 1,
            "{said}"
        );
    }
    let said = report("[[channel]]\nname = \"a\"\nview = \"data.team = me.team\"");
    assert!(said.ends_with("\n    data.team = me.team\n              ^"), "{said}");
}

/// A class with these lines, and what is said of it, from its place on.
#[track_caller]
fn check_class(lines: &str, expected: &str) {
    check(&format!("[[channel]]\nname = \"a\"\n{lines}"), &format!("f.toml:{expected}"));
}

#[test]
fn histories_are_judged() {
    let form = "how much a log keeps is written like { events = 200, age = \"10m\" }";
    for (value, expected) in [
        ("200", "3:11: `channel.history` is a whole number, not a table; write `history = { events = 200, age = \"10m\" }`".to_owned()),
        ("{}", format!("3:1: `channel.history` needs both `events` and `age`; {form}")),
        ("{ events = 9 }", format!("3:1: `channel.history` needs both `events` and `age`; {form}")),
        ("{ age = \"9s\" }", format!("3:1: `channel.history` needs both `events` and `age`; {form}")),
        (
            "{ events = 0, age = \"9s\" }",
            "3:22: `channel.history.events` is out of bounds: 0; it may be 1 to 100000".to_owned(),
        ),
        (
            "{ events = 100001, age = \"9s\" }",
            "3:22: `channel.history.events` is out of bounds: 100001; it may be 1 to 100000".to_owned(),
        ),
        (
            "{ events = 9, age = \"31d\" }",
            "3:31: `channel.history.age` is out of bounds: 31d; it may be 1s to 30d".to_owned(),
        ),
        (
            "{ events = 9, age = \"900ms\" }",
            "3:31: `channel.history.age` is out of bounds: 900ms; it may be 1s to 30d".to_owned(),
        ),
        (
            "{ event = 9, age = \"9s\" }",
            format!(
                "3:1: `channel.history` needs both `events` and `age`; {form}\n\
                 f.toml:3:13: unknown key `event` in `channel.history`; did you mean `events`?"
            ),
        ),
    ] {
        check_class(&format!("history = {value}"), &expected);
    }
    check_class(
        "plain_publish = \"ignore\"",
        "3:17: `channel.plain_publish` needs `history`; without a log every publish is a plain one: say history = { events = 200, age = \"10m\" }, or leave it out",
    );
    check_class(
        "history = { events = 9, age = \"9s\" }\nplain_publish = \"refuse\"",
        "4:17: `channel.plain_publish` is not known: \"refuse\"; it may be \"deliver\" or \"ignore\"",
    );
}

#[test]
fn what_contradicts_a_history_is_named_with_the_reason() {
    let history = "history = { events = 9, age = \"9s\" }";
    for (lines, what, reason) in [
        (
            "kind = \"entity\"",
            "kind = \"entity\"",
            "an entity channel stores the last state of each entity, from which subscribers start anew: leave one of the two out",
        ),
        ("conflate = true", "`conflate`", "a log is there so that no event is missing: leave `conflate` out"),
        (
            "batch = \"50ms\"\nmax_updates = 9",
            "`max_updates`",
            "a log is there so that no event is missing: leave `max_updates` out",
        ),
        (
            "slow_consumer = \"latest\"",
            "slow_consumer = \"latest\"",
            "a log is there so that no event is missing: say \"disconnect\", after which clients resume, or \"drop_oldest\"",
        ),
        (
            "forward = \"actions\"",
            "`forward`",
            "players' publishes go to the stream, where a service reads them: give the channel on which it publishes what follows the `history`",
        ),
    ] {
        check_class(
            &format!("{history}\n{lines}"),
            &format!("3:1: `channel.history` does not go with {what}; {reason}"),
        );
    }
}

#[test]
fn a_rule_of_presence_needs_presence() {
    for presence in ["", "presence = \"off\"\n"] {
        let said = report(&format!("[[channel]]\nname = \"a\"\n{presence}presence_rule = \"true\""));
        assert!(
            said.ends_with("needs `presence`; say presence = \"query\" or presence = \"notify\""),
            "{said}"
        );
    }
    let said = report("[[channel]]\nname = \"a\"\npresence = \"query\"\npresence_rule = \"event == 'x'\"");
    assert!(said.starts_with("f.toml:4:18: `channel.presence_rule`"), "{said}");
    let said = report("[[channel]]\nname = \"a\"\npresence = \"notfy\"");
    assert!(said.ends_with("did you mean \"notify\"?"), "{said}");
}

#[test]
fn a_sharded_class_has_no_patterns() {
    check(
        "[[channel]]\nname = \"room:{r}\"\nsharded = true\npatterns = true",
        "f.toml:4:12: `channel.patterns` cannot be true together with `sharded = true`: Redis has no patterns of sharded channels; leave one of the two out; clients subscribe to sharded channels by name",
    );
    let said = report("[[channel]]\nname = \"a\"\nsharded = 1");
    assert!(said.contains("`channel.sharded`"), "{said}");
}

#[test]
fn what_is_not_built_is_refused_by_name() {
    check(
        "[[channel]]\nname = \"a\"\nlogic = \"arena\"",
        "f.toml:3:9: `channel.logic` is not supported yet; leave it out",
    );
    check(
        "[[channel]]\nname = \"a\"\nwhen_broker_down = \"local\"\nforward = \"s\"",
        "f.toml:3:20: `channel.when_broker_down` cannot be \"local\" together with `forward`: an action that is not in the stream reaches no service; it may be \"queue\" or \"reject\"",
    );
    check(
        "[[channel]]\nname = \"a\"\nwhen_broker_down = \"local\"\nkind = \"entity\"\nkey = \"data.id\"",
        "f.toml:3:20: `channel.when_broker_down` cannot be \"local\" together with `kind = \"entity\"`: a state that is not in the table is on one node alone, and gone when Redis is back; it may be \"queue\" or \"reject\"",
    );
    let said = report(
        "[[channel]]\nname = \"a\"\nwhen_broker_down = \"local\"\nhistory = { events = 200, age = \"10m\" }",
    );
    assert!(
        said.contains(
            "cannot be \"local\" together with `history`: an event that is not in the log has no offset"
        ),
        "{said}"
    );
    check(
        "[connection]\nresume_window = \"2h\"",
        "f.toml:2:17: `connection.resume_window` is out of bounds: 2h; it may be 0s to 1h",
    );
    check("[logic.arena]\nluau = \"arena.luau\"", "f.toml:1:2: `logic` is not supported yet; leave it out");
}

#[test]
fn views_that_mean_nothing_are_refused_by_name() {
    for (keys, said) in [
        ("hysteresis = 5", "`channel.hysteresis` needs `position`"),
        ("max_radius = 5.5", "`channel.max_radius` needs `position`"),
        ("area_required = true", "`channel.area_required` needs `position`"),
        ("follow = \"true\"", "`channel.follow` needs `position`"),
        ("follow_hidden = true", "`channel.follow_hidden` needs `position`"),
        ("max_updates = 5", "`channel.max_updates` needs `batch`"),
        ("max_wait = \"1s\"", "`channel.max_wait` needs `batch`"),
        ("max_wait = \"10ms\"\nbatch = \"50ms\"", "`channel.max_wait` is shorter than `batch`"),
        ("position = [\"data.x\"]", "`channel.position` has 1 paths, not two"),
        ("position = [\"x\", \"data.y\"]", "`channel.position` is not a path: \"x\""),
        (
            "follow = \"data.owner == me.sub\"\nposition = [\"data.x\", \"data.y\"]",
            "`channel.follow`: `data` is not known in this place",
        ),
        ("key = \"id\"", "`channel.key` is not a path"),
        ("kind = \"entities\"", "`channel.kind` is not known: \"entities\"; did you mean \"entity\"?"),
        ("slow_consumer = \"newest\"", "`channel.slow_consumer` is not known"),
        ("batch = \"11s\"", "`channel.batch` is out of bounds"),
        ("hysteresis = -1\nposition = [\"data.x\", \"data.y\"]", "`channel.hysteresis` is out of bounds"),
        ("entity_max = 0", "`channel.entity_max` is out of bounds"),
        ("entity_bytes = 100", "`channel.entity_bytes` is out of bounds"),
    ] {
        let report = report(&format!("[[channel]]\nname = \"a\"\n{keys}"));
        assert!(report.contains(said), "{keys}: {report}");
    }
}

#[test]
fn parameters_are_those_of_the_name() {
    let class = |rule: &str| format!("[[channel]]\nname = \"world:{{world}}\"\n{rule}");
    for (rule, column, hint) in [
        ("subscribe = \"params.wrld in me.worlds\"", 21, "did you mean `params.world`?"),
        ("publish = \"params['wrld'] == '1'\"", 19, "did you mean `params.world`?"),
        ("view = \"has(params.room)\"", 20, "there is `params.world`"),
        (
            "kind = \"entity\"\nposition = [\"data.x\", \"data.y\"]\nfollow = \"params.word == key\"",
            18,
            "did you mean `params.world`?",
        ),
    ] {
        let said = report(&class(rule));
        let line = 2 + rule.lines().count();
        assert!(said.starts_with(&format!("f.toml:{line}:{column}: ")), "{said}");
        assert!(said.contains("the class's name has no `{") && said.contains(hint), "{said}");
    }
    let said = report("[[channel]]\nname = \"chat:*\"\nsubscribe = \"params.room == '1'\"");
    assert!(
        said.contains("has no `{room}` (at byte 7); a class's name has it where it is written with `{room}`"),
        "{said}"
    );
    good(&class("subscribe = \"params.world in me.worlds && 'world' in params\""));
}
