//! Whatever a client sends as a filter and whatever data it meets: an answer or an error, within bounds.
#![no_main]

use drawbridge_engine::expr::{Binding, Scope, Var, Vars, compile, compile_filter};
use libfuzzer_sys::fuzz_target;

struct Event<'a>(&'a str);

impl Scope for Event<'_> {
    fn var(&self, var: Var) -> Binding<'_> {
        match var {
            Var::Event | Var::Channel => Binding::Text("name"),
            Var::Data => Binding::Json(self.0),
            Var::Me => {
                Binding::Me { player: "alice", claims: r#"{"sub":"alice","team":"red","rooms":["1","2"]}"# }
            }
            Var::Params => Binding::Params(&[("room", "1")]),
            Var::From | Var::Tags | Var::Key => Binding::Missing,
        }
    }
}

fuzz_target!(|input: (&str, &str)| {
    let (source, data) = input;
    let data = if serde_json::from_str::<&serde_json::value::RawValue>(data).is_ok() { data } else { "null" };
    let _ = compile_filter(source);
    if let Ok(expr) = compile(source, Vars::VIEW_RULE) {
        let scope = Event(data);
        let plain = expr.matches(&scope);
        let bound = expr.bind(&scope, Vars::ME | Vars::CHANNEL | Vars::PARAMS);
        assert_eq!(bound.matches(&scope), plain, "{source} over {data}");
        assert!(compile(&expr.to_string(), Vars::VIEW_RULE).is_ok(), "{expr} does not compile again");
    }
});
