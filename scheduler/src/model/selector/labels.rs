//! The query form of label selectors: `app=web,tier in (a, b),!old,kept,size>2`. Tokens first, then one requirement after
//! the other; refusals in upstream's words, because clients show them.

use super::{Requirement, SelectorError};
use crate::model::syntax;

/// The operators between a key and its values, as refusals list them.
const OPERATORS: &str = "in, notin, =, ==, !=, gt, lt";
/// Every operator that is made of these, the longest first.
const SYMBOLS: [(&str, Token<'static>); 9] = [
    ("==", Token::Equals("==")),
    ("!=", Token::NotEquals),
    ("=", Token::Equals("=")),
    (")", Token::Close),
    ("(", Token::Open),
    (",", Token::Comma),
    ("!", Token::Not),
    (">", Token::Greater),
    ("<", Token::Less),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Close,
    Comma,
    Not,
    Equals(&'static str),
    NotEquals,
    Greater,
    Less,
    Open,
    In,
    NotIn,
    Word(&'a str),
    End,
}

impl<'a> Token<'a> {
    /// The text that it came from.
    fn text(self) -> &'a str {
        match self {
            Self::Close => ")",
            Self::Comma => ",",
            Self::Not => "!",
            Self::Equals(text) => text,
            Self::NotEquals => "!=",
            Self::Greater => ">",
            Self::Less => "<",
            Self::Open => "(",
            Self::In => "in",
            Self::NotIn => "notin",
            Self::Word(text) => text,
            Self::End => "",
        }
    }

    /// A key or a value, which may be called like an operator.
    fn word(self) -> Option<&'a str> {
        matches!(self, Self::Word(_) | Self::In | Self::NotIn).then(|| self.text())
    }
}

/// All requirements of a selector.
pub(super) fn parse(text: &str) -> Result<Vec<Requirement>, SelectorError> {
    let mut parser = Parser { rest: tokens(text) };
    let mut out = Vec::new();
    loop {
        match parser.peek() {
            Token::End => return Ok(out),
            token if token.word().is_some() || token == Token::Not => {
                let requirement = parser.requirement();
                out.push(
                    requirement.map_err(|why| syntax_error(format!("unable to parse requirement: {why}")))?,
                );
            }
            token => return Err(found(token, ", expected: !, identifier, or 'end of string'")),
        }
        match parser.next() {
            Token::End => return Ok(out),
            Token::Comma => {
                let next = parser.peek();
                if next.word().is_none() && next != Token::Not {
                    return Err(found(next, ", expected: identifier after ','"));
                }
            }
            token => return Err(found(token, ", expected: ',' or 'end of string'")),
        }
    }
}

fn syntax_error(why: String) -> SelectorError {
    SelectorError::Syntax(why)
}

fn found(token: Token<'_>, expected: &str) -> SelectorError {
    syntax_error(format!("found '{}'{expected}", token.text()))
}

/// In reverse, so that the next one is at the end.
fn tokens(text: &str) -> Vec<Token<'_>> {
    let blank = |c: char| matches!(c, ' ' | '\t' | '\r' | '\n');
    let symbol = |c: char| "=!(),><".contains(c);
    let mut out = Vec::new();
    // A zero byte ends the text, as upstream.
    let mut rest = text.split('\0').next().unwrap_or_default();
    loop {
        rest = rest.trim_start_matches(blank);
        let Some(first) = rest.chars().next() else { break };
        if symbol(first) {
            // Every symbol is a token of its own, so one of them fits.
            let Some((symbol, token)) = SYMBOLS.iter().find(|(symbol, _)| rest.starts_with(symbol)) else {
                break;
            };
            out.push(*token);
            rest = &rest[symbol.len()..];
        } else {
            let end = rest.find(|c| symbol(c) || blank(c)).unwrap_or(rest.len());
            let (word, tail) = rest.split_at(end);
            rest = tail;
            out.push(match word {
                "in" => Token::In,
                "notin" => Token::NotIn,
                word => Token::Word(word),
            });
        }
    }
    out.reverse();
    out
}

struct Parser<'a> {
    rest: Vec<Token<'a>>,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Token<'a> {
        self.rest.last().copied().unwrap_or(Token::End)
    }

    fn next(&mut self) -> Token<'a> {
        self.rest.pop().unwrap_or(Token::End)
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let negated = self.peek() == Token::Not;
        if negated {
            self.next();
        }
        let token = self.next();
        let Some(key) = token.word() else { return Err(found(token, ", expected: identifier")) };
        complain("<nil>", key, &syntax::qualified_name(key))?;
        let key = key.to_owned();
        if negated {
            return Ok(Requirement::DoesNotExist(key));
        }
        if matches!(self.peek(), Token::End | Token::Comma) {
            return Ok(Requirement::Exists(key));
        }
        match self.next() {
            Token::In => Ok(Requirement::In(key.clone(), self.set(&key)?)),
            Token::NotIn => Ok(Requirement::NotIn(key.clone(), self.set(&key)?)),
            Token::Equals(_) => Ok(Requirement::Equals(key.clone(), self.value(&key)?)),
            Token::NotEquals => Ok(Requirement::NotEquals(key.clone(), self.value(&key)?)),
            Token::Greater => Ok(Requirement::Gt(key.clone(), self.bound(&key)?)),
            Token::Less => Ok(Requirement::Lt(key.clone(), self.bound(&key)?)),
            token => Err(found(token, &format!(", expected: {OPERATORS}"))),
        }
    }

    fn word(&mut self) -> Result<&'a str, SelectorError> {
        if matches!(self.peek(), Token::End | Token::Comma) {
            return Ok("");
        }
        let token = self.next();
        token.word().ok_or_else(|| found(token, ", expected: identifier"))
    }

    fn value(&mut self, key: &str) -> Result<String, SelectorError> {
        Ok(checked(key, vec![self.word()?.to_owned()], Vec::new())?.remove(0))
    }

    fn bound(&mut self, key: &str) -> Result<i64, SelectorError> {
        let text = self.word()?;
        let bound = text.strip_prefix('+').unwrap_or(text).parse();
        let why = "for 'Gt', 'Lt' operators, the value must be an integer";
        let wrong = bound.is_err().then(|| complaint("values[0]", text, why));
        checked(key, vec![text.to_owned()], wrong.into_iter().collect())?;
        Ok(bound.unwrap_or_default())
    }

    /// `(a, b)`; nothing between commas is the empty value.
    fn set(&mut self, key: &str) -> Result<Vec<String>, SelectorError> {
        let token = self.next();
        if token != Token::Open {
            return Err(found(token, " expected: '('"));
        }
        let mut values = match self.peek() {
            Token::Close => vec![String::new()],
            token if token.word().is_some() || token == Token::Comma => self.words()?,
            token => return Err(found(token, ", expected: ',', ')' or identifier")),
        };
        self.next();
        values.sort_unstable();
        values.dedup();
        checked(key, values, Vec::new())
    }

    /// The words up to the closing parenthesis, which stays.
    fn words(&mut self) -> Result<Vec<String>, SelectorError> {
        let mut values = Vec::new();
        loop {
            let token = self.next();
            if let Some(word) = token.word() {
                values.push(word.to_owned());
                match self.peek() {
                    Token::Comma => {}
                    Token::Close => return Ok(values),
                    other => return Err(found(other, ", expected: ',' or ')'")),
                }
            } else if token == Token::Comma {
                if values.is_empty() || matches!(self.peek(), Token::Comma | Token::Close) {
                    values.push(String::new());
                }
                if self.peek() == Token::Close {
                    return Ok(values);
                }
            } else {
                return Err(found(token, ", expected: ',', or identifier"));
            }
        }
    }
}

fn complaint(field: &str, value: &str, why: &str) -> String {
    format!("{field}: Invalid value: {value:?}: {why}")
}

fn complain(field: &str, value: &str, complaints: &[String]) -> Result<(), SelectorError> {
    if complaints.is_empty() {
        Ok(())
    } else {
        Err(syntax_error(complaint(field, value, &complaints.join("; "))))
    }
}

/// Values that can be those of a label: what cannot be one matches nothing, which a script would take for an answer.
fn checked(key: &str, values: Vec<String>, mut wrong: Vec<String>) -> Result<Vec<String>, SelectorError> {
    for (index, value) in values.iter().enumerate() {
        let complaints = syntax::label_value(value);
        if !complaints.is_empty() {
            wrong.push(complaint(&format!("values[{index}][{key}]"), value, &complaints.join("; ")));
        }
    }
    match wrong.as_slice() {
        [] => Ok(values),
        [one] => Err(syntax_error(one.clone())),
        many => Err(syntax_error(format!("[{}]", many.join(", ")))),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::LabelSelector;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn query_form_has_set_and_equality_operators() {
        let s = LabelSelector::parse("app=web, tier in (a, b),!old,kept,zone!=x").unwrap();
        assert!(s.matches(&labels(&[("app", "web"), ("tier", "b"), ("kept", "")])));
        assert!(!s.matches(&labels(&[("app", "web"), ("tier", "c"), ("kept", "")])));
        assert!(!s.matches(&labels(&[("app", "web"), ("tier", "a"), ("kept", ""), ("old", "")])));
        assert!(!s.matches(&labels(&[("app", "web"), ("tier", "a"), ("kept", ""), ("zone", "x")])));
        assert!(LabelSelector::parse("").unwrap().matches(&labels(&[])));
    }

    #[test]
    fn numbers_compare_and_words_may_be_called_like_operators() {
        let parsed = |text: &str| parse(text).unwrap();
        assert_eq!(parsed("a>2,b < 3"), [Requirement::Gt("a".into(), 2), Requirement::Lt("b".into(), 3)]);
        assert_eq!(
            parsed("in in (in,notin)"),
            [Requirement::In("in".into(), vec!["in".into(), "notin".into()])]
        );
        assert_eq!(parsed("a in (b,,b,)"), [Requirement::In("a".into(), vec![String::new(), "b".into()])]);
        assert_eq!(
            parsed("a=,b in ()"),
            [
                Requirement::Equals("a".into(), String::new()),
                Requirement::In("b".into(), vec![String::new()])
            ]
        );
    }

    #[test]
    fn refusals_have_upstreams_words() {
        for (text, why) in [
            ("app=x,", "found '', expected: identifier after ','"),
            (",app=x", "found ',', expected: !, identifier, or 'end of string'"),
            ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
            ("a in b", "unable to parse requirement: found 'b' expected: '('"),
            ("a===b", "unable to parse requirement: found '=', expected: identifier"),
            ("a=b c", "found 'c', expected: ',' or 'end of string'"),
            ("!a=b", "found '=', expected: ',' or 'end of string'"),
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            (
                "a>x",
                "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must \
                 be an integer",
            ),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), why, "{text}");
        }
        let said = |text: &str| parse(text).unwrap_err().to_string();
        let key = "unable to parse requirement: <nil>: Invalid value: \"-a\": name part must consist of alphanumeric";
        assert!(said("-a=1").starts_with(key), "{}", said("-a=1"));
        assert!(said("x/y/z=1").contains("Invalid value: \"x/y/z\": a valid label key must consist"));
        assert!(
            said("a=-").starts_with(
                "unable to parse requirement: values[0][a]: Invalid value: \"-\": a valid label"
            )
        );
    }
}
