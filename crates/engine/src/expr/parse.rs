//! Reads a source into a tree, and says where it does not fit: the grammar, the names and the types.
//! How trees are simplified is left to `build`; how they are evaluated to `eval`.

use super::SHORTER;
use super::build;
use super::error::CompileError;
use super::lex::{Lexer, Token, TokenKind};
use super::node::{BinaryOp, Const, Node, Tree, UnaryOp, ValueType};
use super::suggest;
use super::vars::{Var, Vars};

/// How deep parts may be in each other.
pub(super) const MAX_DEPTH: usize = 32;
/// How many operators, literals and names an expression may have.
pub(super) const MAX_NODES: usize = 1024;

/// The longest name that an error repeats.
const MAX_SHOWN_CHARS: usize = 24;

/// Written `name(x)`.
const FUNCTIONS: [&str; 4] = ["has", "size", "string", "int"];
/// Written `x.name(…)`.
const METHODS: [&str; 4] = ["size", "startsWith", "endsWith", "contains"];

/// The tree of a source whose answer is a boolean. `params` are the names that `params` can have; `None`: any.
pub(super) fn parse<'s>(
    source: &'s str,
    allowed: Vars,
    params: Option<&'s [&'s str]>,
) -> Result<Tree, CompileError> {
    let mut lexer = Lexer::new(source);
    let next = lexer.next()?;
    let mut parser = Parser { lexer, next, source, allowed, params, nodes: 0, depth: 0 };
    if parser.next.kind == TokenKind::End {
        return Err(CompileError::new(0, "the expression is empty").hint("`true` lets everything through"));
    }
    let whole = parser.expression()?;
    parser.end()?;
    whole.check_boolean("the answer").map_err(|error| {
        let hint =
            error.hint.clone().unwrap_or_else(|| "compare it with something, as in `… == 1`".to_owned());
        error.hint(hint)
    })?;
    Ok(whole.tree)
}

/// A part that was read, with where it starts and how deep it is.
struct Parsed {
    tree: Tree,
    at: usize,
    depth: usize,
}

impl Parsed {
    fn kind(&self) -> ValueType {
        self.tree.kind()
    }

    fn check_boolean(&self, what: &str) -> Result<(), CompileError> {
        if self.kind().may_be(&[ValueType::Bool]) {
            return Ok(());
        }
        let error = CompileError::new(
            self.at,
            format!("{what} must be a boolean; this is {}", self.kind().described()),
        );
        Err(match *self.tree {
            Node::Var(Var::Event) => error.hint("compare it, as in `event == 'hit'`"),
            _ => error,
        })
    }
}

struct Parser<'s> {
    lexer: Lexer<'s>,
    next: Token<'s>,
    source: &'s str,
    allowed: Vars,
    params: Option<&'s [&'s str]>,
    nodes: usize,
    depth: usize,
}

impl<'s> Parser<'s> {
    // The grammar, from what binds least.

    /// `a ? b : c`. Everything that is inside something else comes through here or `prefixed`.
    fn expression(&mut self) -> Result<Parsed, CompileError> {
        self.deeper(|parser| {
            let test = parser.either()?;
            if !parser.accept("?")? {
                return Ok(test);
            }
            test.check_boolean("the condition before `?`")?;
            let then = parser.expression()?;
            parser.expect(":")?;
            let otherwise = parser.expression()?;
            let depth = test.depth.max(then.depth).max(otherwise.depth);
            parser.part(build::conditional(test.tree, then.tree, otherwise.tree), test.at, depth)
        })
    }

    /// `a || b || …`
    fn either(&mut self) -> Result<Parsed, CompileError> {
        self.logic("||", Self::both, build::any)
    }

    /// `a && b && …`
    fn both(&mut self) -> Result<Parsed, CompileError> {
        self.logic("&&", Self::relation, build::all)
    }

    fn logic(
        &mut self,
        sign: &'static str,
        operand: fn(&mut Self) -> Result<Parsed, CompileError>,
        build: fn(Vec<Tree>) -> Tree,
    ) -> Result<Parsed, CompileError> {
        let first = operand(self)?;
        if !self.sees(sign) {
            return Ok(first);
        }
        let (at, mut depth) = (first.at, first.depth);
        let what = format!("each side of `{sign}`");
        first.check_boolean(&what)?;
        let mut trees = vec![first.tree];
        while self.accept(sign)? {
            let next = operand(self)?;
            next.check_boolean(&what)?;
            self.count()?;
            depth = depth.max(next.depth);
            trees.push(next.tree);
        }
        self.part(build(trees), at, depth)
    }

    /// `== != < <= > >= in`, from the left.
    fn relation(&mut self) -> Result<Parsed, CompileError> {
        self.chain(Self::sum, |kind| {
            Some(match kind {
                TokenKind::Sign("==") => BinaryOp::Equal,
                TokenKind::Sign("!=") => BinaryOp::NotEqual,
                TokenKind::Sign("<") => BinaryOp::Less,
                TokenKind::Sign("<=") => BinaryOp::LessEqual,
                TokenKind::Sign(">") => BinaryOp::Greater,
                TokenKind::Sign(">=") => BinaryOp::GreaterEqual,
                TokenKind::Name("in") => BinaryOp::In,
                _ => return None,
            })
        })
    }

    /// `+ -`, from the left.
    fn sum(&mut self) -> Result<Parsed, CompileError> {
        self.chain(Self::product, |kind| {
            Some(match kind {
                TokenKind::Sign("+") => BinaryOp::Add,
                TokenKind::Sign("-") => BinaryOp::Subtract,
                _ => return None,
            })
        })
    }

    /// `* / %`, from the left.
    fn product(&mut self) -> Result<Parsed, CompileError> {
        self.chain(Self::prefixed, |kind| {
            Some(match kind {
                TokenKind::Sign("*") => BinaryOp::Multiply,
                TokenKind::Sign("/") => BinaryOp::Divide,
                TokenKind::Sign("%") => BinaryOp::Remainder,
                _ => return None,
            })
        })
    }

    fn chain(
        &mut self,
        operand: fn(&mut Self) -> Result<Parsed, CompileError>,
        op: fn(&TokenKind<'_>) -> Option<BinaryOp>,
    ) -> Result<Parsed, CompileError> {
        let mut left = operand(self)?;
        while let Some(op) = op(&self.next.kind) {
            let at = self.advance()?.at;
            let right = operand(self)?;
            left = self.binary(op, at, left, right)?;
        }
        Ok(left)
    }

    /// `!x`, `-x`
    fn prefixed(&mut self) -> Result<Parsed, CompileError> {
        let op = match self.next.kind {
            TokenKind::Sign("!") => UnaryOp::Not,
            TokenKind::Sign("-") => UnaryOp::Negate,
            _ => return self.suffixed(),
        };
        let at = self.advance()?.at;
        let operand = self.deeper(Self::prefixed)?;
        self.unary(op, at, operand)
    }

    /// `x.name`, `x.method(…)`, `x[index]`
    fn suffixed(&mut self) -> Result<Parsed, CompileError> {
        let mut part = self.primary()?;
        loop {
            if self.sees(".") {
                part = self.dotted(part)?;
            } else if self.sees("[") {
                let at = self.advance()?.at;
                let index = self.expression()?;
                if let Node::Const(Const::Text(name)) = &*index.tree {
                    self.check_param(&part, name, index.at)?;
                }
                self.expect("]")?;
                part = self.binary(BinaryOp::Index, at, part, index)?;
            } else {
                return Ok(part);
            }
        }
    }

    fn dotted(&mut self, base: Parsed) -> Result<Parsed, CompileError> {
        self.advance()?;
        let at = self.next.at;
        let TokenKind::Name(name) = self.next.kind else {
            let error = self.unexpected("a field name");
            return Err(match self.next.kind {
                TokenKind::Number(_) => error.hint("the elements of a list are `x[0]`, `x[1]`, …"),
                TokenKind::Text(_) => error.hint("write `x['name']`"),
                _ => error,
            });
        };
        self.advance()?;
        if self.sees("(") {
            return self.method(base, name, at);
        }
        if matches!(name, "in" | "true" | "false" | "null") {
            return Err(CompileError::new(at, format!("`{name}` is a word of the language"))
                .hint(format!("write `['{name}']`")));
        }
        self.check_map(&base, name)?;
        self.check_param(&base, name, at)?;
        self.part(build::select(base.tree, name.into()), base.at, base.depth)
    }

    fn method(&mut self, receiver: Parsed, name: &str, at: usize) -> Result<Parsed, CompileError> {
        let op = match name {
            "size" => None,
            "startsWith" => Some(BinaryOp::StartsWith),
            "endsWith" => Some(BinaryOp::EndsWith),
            "contains" => Some(BinaryOp::Contains),
            "has" => {
                return Err(CompileError::new(at, "`has` is not a method").hint("write `has(data.field)`"));
            }
            "string" | "int" => {
                return Err(CompileError::new(at, format!("`{name}` is not a method"))
                    .hint(format!("write `{name}(data.field)`")));
            }
            _ => {
                let hint = suggest::for_function(name, &METHODS);
                return Err(CompileError::new(at, format!("there is no method `{name}`")).hint(hint));
            }
        };
        let mut arguments = self.arguments()?;
        match (op, arguments.pop(), arguments.is_empty()) {
            (None, None, _) => self.unary(UnaryOp::Size, receiver.at, receiver),
            (Some(op), Some(argument), true) => self.binary(op, at, receiver, argument),
            (None, ..) => Err(CompileError::new(at, "`x.size()` takes nothing in its brackets")),
            (Some(_), ..) => Err(CompileError::new(at, format!("`{name}` takes one text"))
                .hint(format!("write `x.{name}('…')`"))),
        }
    }

    fn primary(&mut self) -> Result<Parsed, CompileError> {
        let at = self.next.at;
        match self.next.kind {
            TokenKind::Sign("(") => {
                self.advance()?;
                let inner = self.expression()?;
                self.expect(")")?;
                Ok(Parsed { at, ..inner })
            }
            TokenKind::Sign("[") => {
                self.advance()?;
                let parts = self.parts_until("]")?;
                let depth = parts.iter().map(|part| part.depth).max().unwrap_or(0);
                self.part(build::list(parts.into_iter().map(|part| part.tree).collect()), at, depth)
            }
            TokenKind::Number(_) | TokenKind::Text(_) => {
                let value = match self.advance()?.kind {
                    TokenKind::Number(number) => Const::Number(number),
                    TokenKind::Text(text) => Const::Text(text.into()),
                    _ => Const::Null,
                };
                self.part(build::constant(value), at, 0)
            }
            TokenKind::Name(name) if name != "in" => {
                self.advance()?;
                self.named(name, at)
            }
            _ => Err(self.unexpected("a value")),
        }
    }

    fn named(&mut self, name: &'s str, at: usize) -> Result<Parsed, CompileError> {
        let tree = match name {
            "true" => build::boolean(true),
            "false" => build::boolean(false),
            "null" => build::constant(Const::Null),
            _ if self.sees("(") => return self.function(name, at),
            _ => build::var(self.variable(name, at)?),
        };
        self.part(tree, at, 0)
    }

    fn variable(&self, name: &str, at: usize) -> Result<Var, CompileError> {
        match Var::of_name(name) {
            Some(var) if self.allowed.contains(var) => Ok(var),
            Some(_) => Err(CompileError::new(at, format!("`{name}` is not known in this place"))
                .hint(format!("here are {}", suggest::listed(self.allowed)))),
            None => Err(CompileError::new(at, format!("there is no variable `{name}`"))
                .hint(suggest::for_variable(name, self.allowed))),
        }
    }

    fn function(&mut self, name: &str, at: usize) -> Result<Parsed, CompileError> {
        let op = match name {
            "has" => None,
            "size" => Some(UnaryOp::Size),
            "string" => Some(UnaryOp::Text),
            "int" => Some(UnaryOp::Integer),
            "startsWith" | "endsWith" | "contains" => {
                return Err(CompileError::new(at, format!("`{name}` is a method"))
                    .hint(format!("write `x.{name}('…')`")));
            }
            _ => {
                let hint = suggest::habit(name).map_or_else(
                    || suggest::for_function(name, &[FUNCTIONS, METHODS].concat()),
                    str::to_owned,
                );
                return Err(CompileError::new(at, format!("there is no function `{name}`")).hint(hint));
            }
        };
        let mut arguments = self.arguments()?;
        let (Some(argument), true) = (arguments.pop(), arguments.is_empty()) else {
            return Err(CompileError::new(at, format!("`{name}` takes one value")));
        };
        if let Some(op) = op {
            return self.unary(op, at, argument);
        }
        match &*argument.tree {
            Node::Select(base, field) => {
                self.part(build::has(base.clone(), field.clone()), at, argument.depth)
            }
            _ => Err(CompileError::new(argument.at, "`has` takes a field").hint("write `has(data.field)`")),
        }
    }

    fn arguments(&mut self) -> Result<Vec<Parsed>, CompileError> {
        self.expect("(")?;
        self.parts_until(")")
    }

    /// Parts between commas; one comma may be too many at the end.
    fn parts_until(&mut self, close: &'static str) -> Result<Vec<Parsed>, CompileError> {
        let mut parts = Vec::new();
        while !self.accept(close)? {
            parts.push(self.expression()?);
            if !self.accept(",")? {
                self.expect(close)?;
                break;
            }
        }
        Ok(parts)
    }

    // The types.

    fn unary(&mut self, op: UnaryOp, at: usize, operand: Parsed) -> Result<Parsed, CompileError> {
        if op.result(operand.kind()).is_none() {
            let needs = match op {
                UnaryOp::Not => "`!` needs a boolean",
                UnaryOp::Negate => "`-` needs a number",
                UnaryOp::Size => "`size` needs a text, a list or a map",
                UnaryOp::Text => "`string` needs a number, a boolean or a text",
                UnaryOp::Integer => "`int` needs a number or a text",
            };
            return Err(CompileError::new(
                operand.at,
                format!("{needs}; this is {}", operand.kind().described()),
            ));
        }
        self.part(build::unary(op, operand.tree), at, operand.depth)
    }

    fn binary(&mut self, op: BinaryOp, at: usize, a: Parsed, b: Parsed) -> Result<Parsed, CompileError> {
        check_whole_player(op, &a, &b)?;
        if op.result(a.kind(), b.kind()).is_none() {
            return Err(misfit(op, at, &a, &b));
        }
        self.part(build::binary(op, a.tree, b.tree), a.at, a.depth.max(b.depth))
    }

    fn check_map(&self, base: &Parsed, name: &str) -> Result<(), CompileError> {
        if base.kind().may_be(&[ValueType::Map]) {
            return Ok(());
        }
        let message = format!("{} has no fields such as `{name}`", base.kind().described());
        Err(CompileError::new(base.at, message).hint("fields are those of `data`, `tags`, `me` and `params`"))
    }

    /// A parameter that no channel of the class can have is a slip of the pen.
    fn check_param(&self, base: &Parsed, name: &str, at: usize) -> Result<(), CompileError> {
        let Some(known) = self.params else { return Ok(()) };
        if *base.tree != Node::Var(Var::Params) || known.contains(&name) {
            return Ok(());
        }
        let shown: String = name.chars().take(MAX_SHOWN_CHARS).collect();
        let error = CompileError::new(at, format!("the class's name has no `{{{shown}}}`"));
        Err(error.hint(suggest::for_param(name, known)))
    }

    // The bounds.

    fn part(&mut self, tree: Tree, at: usize, below: usize) -> Result<Parsed, CompileError> {
        self.count()?;
        let depth = below + 1;
        if depth > MAX_DEPTH {
            return Err(too_deep(at));
        }
        Ok(Parsed { tree, at, depth })
    }

    fn count(&mut self) -> Result<(), CompileError> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(CompileError::new(
                self.next.at,
                format!("more than {MAX_NODES} operators and values"),
            )
            .hint(SHORTER));
        }
        Ok(())
    }

    fn deeper(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<Parsed, CompileError>,
    ) -> Result<Parsed, CompileError> {
        if self.depth >= MAX_DEPTH {
            return Err(too_deep(self.next.at));
        }
        self.depth += 1;
        let part = read(self);
        self.depth -= 1;
        part
    }

    // The tokens.

    fn advance(&mut self) -> Result<Token<'s>, CompileError> {
        let next = self.lexer.next()?;
        Ok(std::mem::replace(&mut self.next, next))
    }

    fn sees(&self, sign: &'static str) -> bool {
        self.next.kind == TokenKind::Sign(sign)
    }

    fn accept(&mut self, sign: &'static str) -> Result<bool, CompileError> {
        let there = self.sees(sign);
        if there {
            self.advance()?;
        }
        Ok(there)
    }

    fn expect(&mut self, sign: &'static str) -> Result<(), CompileError> {
        if self.accept(sign)? { Ok(()) } else { Err(self.unexpected(&format!("`{sign}`"))) }
    }

    fn end(&self) -> Result<(), CompileError> {
        if self.next.kind == TokenKind::End { Ok(()) } else { Err(self.unexpected("an operator or the end")) }
    }

    fn unexpected(&self, expected: &str) -> CompileError {
        let at = self.next.at;
        if self.next.kind == TokenKind::End {
            return CompileError::new(at, format!("expected {expected} behind the last word"));
        }
        let rest = self.source.get(at..).unwrap_or_default();
        let found = match self.next.kind {
            TokenKind::Name(name) => name,
            TokenKind::Sign(sign) => sign,
            _ => rest.split(char::is_whitespace).next().unwrap_or_default(),
        };
        let shown: String = found.chars().take(MAX_SHOWN_CHARS).collect();
        let error = CompileError::new(at, format!("expected {expected}, found `{shown}`"));
        match &self.next.kind {
            TokenKind::Name(name) => match suggest::habit(name) {
                Some(hint) => error.hint(hint),
                None => error,
            },
            TokenKind::Sign("{") => error.hint("map literals are not a part of this language"),
            TokenKind::Sign(".") => error.hint("a number begins with a digit, as in `0.5`"),
            _ => error,
        }
    }
}

fn too_deep(at: usize) -> CompileError {
    CompileError::new(at, format!("nested more than {MAX_DEPTH} deep"))
        .hint("chains of `&&` and `||` do not nest, and `x in [a, b]` does the work of many `==`")
}

/// Comparing the whole of `me` with an id is always false, and always meant otherwise.
fn check_whole_player(op: BinaryOp, a: &Parsed, b: &Parsed) -> Result<(), CompileError> {
    let compared = match op {
        BinaryOp::Equal | BinaryOp::NotEqual => [Some(a), Some(b)],
        BinaryOp::In => [Some(a), None],
        _ => return Ok(()),
    };
    match compared.into_iter().flatten().find(|part| matches!(*part.tree, Node::Var(Var::Me | Var::Params))) {
        Some(part) => {
            let hint = if *part.tree == Node::Var(Var::Me) {
                "write `me.player`"
            } else {
                "name one, as in `params.room`"
            };
            Err(CompileError::new(part.at, "only fields of this can be compared").hint(hint))
        }
        None => Ok(()),
    }
}

fn misfit(op: BinaryOp, at: usize, a: &Parsed, b: &Parsed) -> CompileError {
    use BinaryOp::*;
    let (left, right) = (a.kind(), b.kind());
    let (left_is, right_is) = (left.described(), right.described());
    let sign = op.name();
    match op {
        In => CompileError::new(b.at, format!("`in` needs a list or a map on its right; this is {right_is}"))
            .hint("a part of a text is found with `x.contains('…')`"),
        Index => CompileError::new(at, format!("{left_is} cannot be indexed with {right_is}"))
            .hint("lists take numbers, maps take texts"),
        StartsWith | EndsWith | Contains => {
            CompileError::new(at, format!("`{sign}` needs two texts, not {left_is} and {right_is}"))
        }
        Less | LessEqual | Greater | GreaterEqual => {
            let error = CompileError::new(at, format!("`{sign}` cannot compare {left_is} with {right_is}"));
            match left {
                ValueType::Bool => error.hint("a range is written `a < x && x < b`"),
                _ => error.hint("numbers compare with numbers, texts with texts"),
            }
        }
        _ => CompileError::new(at, format!("`{sign}` does not fit {left_is} and {right_is}")),
    }
}
