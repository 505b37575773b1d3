//! The bounds: nothing that is written or sent makes it deep, slow or large.

use drawbridge_engine::expr::{MAX_FILTER_BYTES, MAX_RULE_BYTES, Vars, compile, compile_filter};
use proptest::prelude::*;

use crate::scope::{Plain, expr};

#[test]
fn length() {
    let of_length = |bytes: usize| format!("true{}", " ".repeat(bytes - 4));
    assert!(compile_filter(&of_length(MAX_FILTER_BYTES)).is_ok());
    assert!(compile(&of_length(MAX_RULE_BYTES), Vars::NONE).is_ok());
    assert_eq!(compile_filter(&of_length(MAX_FILTER_BYTES + 1)).unwrap_err().position, MAX_FILTER_BYTES);
    assert!(compile(&of_length(MAX_RULE_BYTES + 1), Vars::NONE).unwrap_err().hint.is_some());
    let cut = format!("{}é'", "'".repeat(MAX_FILTER_BYTES - 1));
    assert_eq!(compile_filter(&cut).unwrap_err().position, MAX_FILTER_BYTES - 1);
}

#[test]
fn depth() {
    let nested = |open: &str, close: &str, times: usize| {
        format!("{}{}{}", open.repeat(times), "data.a", close.repeat(times))
    };
    for (open, close) in
        [("(", ")"), ("!", ""), ("!(", ")"), ("true ? true : ", ""), ("data[", "]"), ("size(", ")")]
    {
        let deep = compile(&nested(open, close, MAX_RULE_BYTES / 16), Vars::DATA).unwrap_err();
        assert!(deep.message.contains("deep"), "{open}: {deep}");
    }
    for unit in
        ["-", "[", "1+", "data.b.", "a.b.b", "[0]", "(", ")", "!", "{", "'", "\"", "\\", "?:", "a?", "x["]
    {
        for around in ["", "data", "1 == ", "data == "] {
            let source: String = around.chars().chain(unit.chars().cycle()).take(MAX_RULE_BYTES).collect();
            assert!(compile(&source, Vars::DATA).is_err(), "{unit}");
        }
    }
    assert!(compile(&nested("(", ")", 20), Vars::DATA).is_ok());
    assert!(compile(&format!("data{} == 1", ".a".repeat(25)), Vars::DATA).is_ok());
    assert!(compile(&format!("data{} == 1", ".a".repeat(40)), Vars::DATA).is_err());
    assert!(compile(&format!("{}data.a == 1", "1 + ".repeat(40)), Vars::DATA).is_err());
}

#[test]
fn chains_do_not_nest() {
    let source = format!("{}event == 'z'", "event == 'a' || ".repeat(200));
    assert!(expr(&source).matches(&Plain { event: "z".into(), ..Plain::default() }));
    let listed = (0..800).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    assert!(expr(&format!("data in [{listed}]")).matches(&Plain::of_data("799")));
    let too_many = format!("data in [{}]", "1,".repeat(1500));
    assert!(compile(&too_many, Vars::DATA).unwrap_err().message.contains("more than 1024"));
}

#[test]
fn work() {
    let long = format!(r#"{{"x":1,"pad":"{}"}}"#, "x".repeat(1 << 20));
    let scope = Plain::of_data(&long);
    assert!(expr("data.x == 1 && data.x < 2").matches(&scope));
    let often = vec!["data.x == 1"; 40].join(" && ");
    assert!(!expr(&often).matches(&scope), "more bytes walked than one answer is worth");
    let absorbed = format!("{} || true == data.y", vec!["data.x == 2"; 40].join(" || "));
    assert!(!expr(&absorbed).matches(&scope));
    let doubled = format!("size({}) > 0", vec!["data.pad"; 20].join(" + "));
    assert!(!expr(&doubled).matches(&scope));

    let escaped = format!(r#""\\n{}""#, "x".repeat(1 << 20));
    assert!(expr("data != 'a' && data != 'b'").matches(&Plain::of_data(&escaped)));
    assert!(!expr(&vec!["data != 'a'"; 40].join(" && ")).matches(&Plain::of_data(&escaped)));
    let copied = format!("size({}) > 0", vec!["[data + 'x']"; 20].join(" + "));
    assert!(!expr(&copied).matches(&Plain::of_data(&escaped)));

    let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    let both = format!(r#"{{"a":{deep},"b":{deep},"x":1}}"#);
    assert!(expr("data.x == 1").matches(&Plain::of_data(&both)));
    assert!(!expr("data.a == data.b").matches(&Plain::of_data(&both)));
    assert!(!expr("data.a != data.b").matches(&Plain::of_data(&both)));

    let pairs = (0..300).map(|n| format!(r#"{{"k":{n}}}"#)).collect::<Vec<_>>().join(",");
    let lists = format!(r#"{{"a":[{pairs}],"b":[{pairs}]}}"#);
    assert!(expr("data.a == data.b").matches(&Plain::of_data(&lists)));
}

/// Pieces of the language, put together without sense.
fn scrambled() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "data",
            "event",
            "me",
            ".",
            "x",
            "[",
            "]",
            "(",
            ")",
            "==",
            "<",
            "&&",
            "||",
            "!",
            "-",
            "+",
            "/",
            "%",
            "?",
            ":",
            ",",
            "in",
            "has(",
            "size(",
            ".contains(",
            "'a'",
            "1",
            "2.5",
            "null",
            "true",
            "0x",
            "\\",
            "'",
            "\"",
            "é",
            " ",
        ])
        .prop_map(str::to_owned),
        "\\PC{0,3}",
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_text_is_an_expression_or_an_error(source in prop_oneof![scrambled(), any::<String>()]) {
        match compile(&source, Vars::VIEW_RULE) {
            Ok(expr) => { expr.matches(&Plain::of_data(r#"{"x":[1,"a"]}"#)); }
            Err(error) => prop_assert!(source.is_char_boundary(error.position), "{}", error),
        }
    }

    #[test]
    fn data_that_is_no_json_is_survived(data in r#"[\[\]{}",:\\uabx01.e-]{0,40}"#) {
        let expr = expr("data.a[0].x == 1 || size(data) > 3 || data == [1, 'a'] || data in data");
        expr.matches(&Plain::of_data(&data));
        expr.bind(&Plain::of_data(&data), Vars::DATA);
    }
}
