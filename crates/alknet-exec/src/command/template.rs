//! The arguments of a command, with fields of the input in them.

use super::{
    config::Problems,
    input::{Field, Fields, Shape},
};
use alknet_core::Violation;
use serde_json::{Map, Value};
use std::path::Path;

/// Most arguments in a configured command.
const ARGUMENTS_MAX: usize = 1024;
/// Most arguments after arrays were taken apart.
const EXPANDED_MAX: usize = 4096;

/// A command whose placeholders are known fields.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    program: String,
    arguments: Vec<Argument>,
}

#[derive(Clone, Debug)]
enum Argument {
    Literal(String),
    Field {
        /// What stands before the value, up to and with `=`.
        prefix: String,
        name: String,
        /// The value may begin with `-`.
        dash: bool,
    },
}

/// How an argument is written.
#[derive(Debug, PartialEq, Eq)]
enum Written<'a> {
    Literal,
    Field {
        prefix: &'a str,
        name: &'a str,
    },
    /// A placeholder in the midst of something.
    Misplaced {
        name: &'a str,
    },
}

impl Template {
    /// Reads a command against the fields of its input.
    pub(crate) fn parse(
        command: &[String],
        fields: &Fields,
        base_dir: &Path,
        problems: &mut Problems,
    ) -> Option<Self> {
        let program = program(command, base_dir, problems);
        if command.len() > ARGUMENTS_MAX {
            problems.add(
                "command",
                format!("has more than {ARGUMENTS_MAX} arguments"),
            );
            return None;
        }
        let mut arguments = Vec::new();
        let mut options_ended = false;
        for (at, text) in command.iter().enumerate().skip(1) {
            let field = format!("command[{at}]");
            if text.contains('\0') {
                problems.add(&field, "contains NUL, which no argument can");
            }
            match written(text) {
                Written::Literal => {
                    options_ended |= text == "--";
                    arguments.push(Argument::Literal(text.clone()));
                }
                Written::Misplaced { name } => problems.add(
                    field,
                    format!(
                        "`{{{name}}}` is part of `{text}`: a placeholder is a whole argument, or follows `=` (`--option={{{name}}}`)"
                    ),
                ),
                Written::Field { prefix, name } => match fields.get(name) {
                    None => problems.add(field, unknown(name, fields)),
                    Some(known) => {
                        check_shape(name, prefix, known, &field, problems);
                        arguments.push(Argument::Field {
                            prefix: prefix.into(),
                            name: name.into(),
                            dash: known.dash || options_ended,
                        });
                    }
                },
            }
        }
        Some(Self {
            program: program?,
            arguments,
        })
    }

    /// The arguments for an input.
    ///
    /// # Errors
    ///
    /// Every value that cannot be an argument, with its pointer.
    pub(crate) fn fill(&self, input: &Map<String, Value>) -> Result<Vec<String>, Vec<Violation>> {
        let mut argv = vec![self.program.clone()];
        let mut violations = Vec::new();
        for argument in &self.arguments {
            match argument {
                Argument::Literal(text) => argv.push(text.clone()),
                Argument::Field { prefix, name, dash } => {
                    let pointer = format!("/{}", name.replace('~', "~0").replace('/', "~1"));
                    let mut add = |pointer: String, value: &Value| match text(value, *dash) {
                        Ok(text) => argv.push(format!("{prefix}{text}")),
                        Err(message) => violations.push(Violation {
                            pointer,
                            message: message.into(),
                        }),
                    };
                    match input.get(name) {
                        None => {}
                        Some(Value::Array(items)) if prefix.is_empty() => {
                            for (at, item) in items.iter().enumerate() {
                                add(format!("{pointer}/{at}"), item);
                            }
                        }
                        Some(value) => add(pointer, value),
                    }
                }
            }
        }
        if argv.len() > EXPANDED_MAX {
            violations.push(Violation {
                pointer: String::new(),
                message: format!("makes more than {EXPANDED_MAX} arguments"),
            });
        }
        if violations.is_empty() {
            Ok(argv)
        } else {
            Err(violations)
        }
    }
}

fn program(command: &[String], base_dir: &Path, problems: &mut Problems) -> Option<String> {
    let Some(program) = command.first().filter(|program| !program.is_empty()) else {
        problems.add("command", "is empty: write the program and its arguments");
        return None;
    };
    if written(program) != Written::Literal {
        problems.add(
            "command[0]",
            format!("`{program}`: the program is not for the caller to choose"),
        );
        return None;
    }
    if program.contains('\0') {
        problems.add("command[0]", "contains NUL");
        return None;
    }
    if program.contains(' ') && command.len() == 1 {
        problems.add(
            "command[0]",
            format!(
                "`{program}` is no program: there is no shell, write each argument as a string of its own"
            ),
        );
        return None;
    }
    if !program.contains('/') {
        return Some(program.clone());
    }
    let path = base_dir.join(program);
    match path.to_str() {
        Some(text) if path.is_absolute() => Some(text.into()),
        _ => {
            problems.add("command[0]", "is no path: the directory is not known");
            None
        }
    }
}

/// `{name}`, `--option={name}`, or a literal. Braces around anything but a
/// name, such as `{}` or `{{.ID}}`, stand for themselves.
fn written(text: &str) -> Written<'_> {
    for (open, _) in text.match_indices('{') {
        let Some(length) = text[open + 1..].find(['{', '}']) else {
            break;
        };
        let close = open + 1 + length;
        let name = &text[open + 1..close];
        if text.as_bytes()[close] != b'}' || !is_name(name) {
            continue;
        }
        let prefix = &text[..open];
        let is_placed = prefix.is_empty() || prefix.ends_with('=');
        return if is_placed && close + 1 == text.len() && !prefix.contains(['{', '}']) {
            Written::Field { prefix, name }
        } else {
            Written::Misplaced { name }
        };
    }
    Written::Literal
}

fn is_name(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

fn unknown(name: &str, fields: &Fields) -> String {
    let known: Vec<String> = fields.keys().map(|name| format!("`{{{name}}}`")).collect();
    if known.is_empty() {
        format!("`{{{name}}}` is no field of the input, which has none: add it to `input`")
    } else {
        format!(
            "`{{{name}}}` is no field of the input: it has {}",
            known.join(", ")
        )
    }
}

fn check_shape(name: &str, prefix: &str, known: &Field, field: &str, problems: &mut Problems) {
    match known.shape {
        Shape::Other => problems.add(
            field,
            format!(
                "`{{{name}}}` is no string, number or boolean, nor an array of these: the command reads it from standard input, where the whole input is as JSON"
            ),
        ),
        Shape::Array if !prefix.is_empty() => problems.add(
            field,
            format!("`{{{name}}}` is an array, which can only be a whole argument"),
        ),
        _ => {}
    }
}

fn text(value: &Value, dash: bool) -> Result<String, &'static str> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
        Value::Null | Value::Array(_) | Value::Object(_) => {
            return Err("is no string, number or boolean, and cannot be an argument");
        }
    };
    if text.contains('\0') {
        return Err("contains NUL, which no argument can");
    }
    if text.starts_with('-') && !dash {
        return Err("begins with `-`, which the command could take for an option");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, want: Written<'_>) {
        assert_eq!(written(text), want, "{text}");
    }

    #[test]
    fn placeholders_are_whole_or_follow_an_equals_sign() {
        check(
            "{a}",
            Written::Field {
                prefix: "",
                name: "a",
            },
        );
        check(
            "--x={a-b}",
            Written::Field {
                prefix: "--x=",
                name: "a-b",
            },
        );
        check(
            "a=b={_c}",
            Written::Field {
                prefix: "a=b=",
                name: "_c",
            },
        );
    }

    #[test]
    fn anywhere_else_they_are_misplaced() {
        for text in [
            "x{a}",
            "{a}x",
            "--x={a},{b}",
            "{a}{b}",
            "{{a}}",
            "--x={a}y",
            "{a}={b}",
        ] {
            check(text, Written::Misplaced { name: "a" });
        }
    }

    #[test]
    fn other_braces_stand_for_themselves() {
        for text in [
            "",
            "{}",
            "{print $1}",
            "{{.ID}}",
            "{1}",
            "}{",
            "{a",
            "a}",
            "{é}",
        ] {
            check(text, Written::Literal);
        }
    }
}
