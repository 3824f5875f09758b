//! Rules on single files.

use std::path::Path;

use super::lexer::lex;

/// Lines of a Rust file beyond which it holds more than one thing.
const FILE_LINES_MAX: usize = 600;

/// Lines of a function, from its name to its closing brace: what fits on one screen.
const FUNCTION_LINES_MAX: usize = 72;

/// Lines between a sleep in a test and the comment `// waits:` that says why nothing else will do.
const REASON_LINES: usize = 3;

/// Words that promise work instead of doing it. Put together here so that this file does not contain them.
const UNFINISHED: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:")];

/// A path that exists on one machine only.
const MACHINE_PATH: &str = concat!("/wo", "rk/");

/// Checks one file, of any kind, by its path from the root of the workspace.
pub(super) fn check(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut report = |line: usize, message: &str| found.push(format!("{path}:{}: {message}", line + 1));
    let last = text.lines().count().saturating_sub(1);
    if !text.is_empty() && !text.ends_with('\n') {
        report(last, "the last line has no newline");
    }
    for (number, line) in text.lines().enumerate() {
        if names_machine_path(line) {
            report(number, "a path that exists on one machine only");
        }
    }
    if Path::new(path).extension().is_some_and(|extension| extension == "rs") {
        rust(path, text, &mut report);
    }
    found
}

fn names_machine_path(line: &str) -> bool {
    let inside_longer =
        |at: usize| line[..at].ends_with(|before: char| before.is_alphanumeric() || "-_.~}".contains(before));
    line.match_indices(MACHINE_PATH).any(|(at, _)| !inside_longer(at))
}

fn rust(path: &str, text: &str, report: &mut impl FnMut(usize, &str)) {
    // Made by a program, to be read by one.
    if path.contains("/generated/") {
        return;
    }
    if text.lines().count() > FILE_LINES_MAX {
        report(0, &format!("{} lines, more than {FILE_LINES_MAX}: split it by what it does", text.lines().count()));
    }
    let lexed = lex(text);
    let code: Vec<&str> = lexed.code.lines().collect();
    let comments: Vec<&str> = lexed.comments.lines().collect();
    let tests = test_lines(path, &code);
    for (number, line) in code.iter().enumerate() {
        for word in UNFINISHED {
            if contains_word(line, word) || contains_word(comments[number], word) {
                report(number, &format!("{word}: finish it, or describe the limit where users read it"));
            }
        }
        for (pattern, message) in [
            (concat!("dbg", "!("), "a debugging aid was left in"),
            (concat!("todo", "!("), "unfinished code"),
            (concat!("unimplemented", "!("), "unfinished code"),
            (concat!("#[ig", "nore"), "an ignored test: assert what holds, or remove it"),
        ] {
            if line.contains(pattern) {
                report(number, message);
            }
        }
        if contains_word(line, "unsafe") && !path.starts_with("crates/sys/") {
            report(number, "unsafe code outside crates/sys");
        }
        if line.contains(".unwrap()") && !tests[number] {
            report(number, ".unwrap() outside tests: return an error, or `expect` why it cannot fail");
        }
        let reasons = &comments[number.saturating_sub(REASON_LINES)..=number];
        if tests[number] && contains_word(line, "sleep") && !reasons.iter().any(|comment| comment.contains("waits:")) {
            report(number, "a sleep in a test: wait for the state itself, or say why not in `// waits: ...`");
        }
    }
    long_functions(&code, report);
}

/// Whether a word stands in the line by itself.
fn contains_word(line: &str, word: &str) -> bool {
    let joins = |character: char| character.is_alphanumeric() || character == '_';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].ends_with(joins) && (word.ends_with(':') || !line[at + word.len()..].starts_with(joins))
    })
}

/// For each line, whether it belongs to a test: a file of tests, or a module under `#[cfg(test)]`.
fn test_lines(path: &str, code: &[&str]) -> Vec<bool> {
    // Examples are tools for measuring: like tests, they end by panicking.
    let file = path.contains("/tests/")
        || path.contains("/examples/")
        || ["/tests.rs", "_tests.rs", "/testing.rs"].iter().any(|ending| path.ends_with(ending));
    let mut lines = vec![file; code.len()];
    for start in (0..code.len()).filter(|number| code[*number].contains("#[cfg(test)]")) {
        let end = block_end(code, start).unwrap_or(start);
        lines[start..=end].fill(true);
    }
    lines
}

fn long_functions(code: &[&str], report: &mut impl FnMut(usize, &str)) {
    for start in (0..code.len()).filter(|number| is_function(code[*number])) {
        let lines = block_end(code, start).map_or(1, |end| end - start + 1);
        if lines > FUNCTION_LINES_MAX {
            report(start, &format!("a function of {lines} lines, more than {FUNCTION_LINES_MAX}: move its parts out"));
        }
    }
}

fn is_function(line: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    let named = words.iter().position(|word| *word == "fn").is_some_and(|at| words.get(at + 1).is_some());
    named
        && words
            .iter()
            .take_while(|word| **word != "fn")
            .all(|word| matches!(*word, "pub" | "async" | "const" | "unsafe" | "extern") || word.starts_with("pub("))
}

/// The line on which the first block after `start` is closed; none if a `;` ends the item before.
fn block_end(code: &[&str], start: usize) -> Option<usize> {
    let (mut depth, mut brackets) = (0_i32, 0_i32);
    for (number, line) in code.iter().enumerate().skip(start) {
        for character in line.chars() {
            match character {
                '{' => depth += 1,
                '}' => {
                    depth -= 1;
                    if depth == 0 {
                        return Some(number);
                    }
                }
                '[' | '(' => brackets += 1,
                ']' | ')' => brackets -= 1,
                ';' if depth == 0 && brackets == 0 => return None,
                _ => {}
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(path: &str, text: &str) -> String {
        let found = check(path, text);
        assert_eq!(found.len(), 1, "{text:?} gave {found:?}");
        found.into_iter().next().unwrap()
    }

    #[test]
    fn each_rule_fires_with_its_line() {
        let sleeping = "#[cfg(test)]\nmod tests {\n    fn f() { std::thread::sleep(x); }\n}\n";
        for (path, text, expected) in [
            ("README.md", "text", "README.md:1: the last line"),
            ("a.toml", &format!("x = \"{MACHINE_PATH}main\"\n"), "a.toml:1: a path that"),
            ("crates/x/src/a.rs", "fn a() {}\nunsafe fn b() {}\n", "crates/x/src/a.rs:2: unsafe code"),
            ("a/src/a.rs", "fn a() { b.unwrap() }\n", "a/src/a.rs:1: .unwrap()"),
            ("a/src/a.rs", &format!("// {} later\n", UNFINISHED[0]), "a/src/a.rs:1: "),
            ("a/src/a.rs", &format!("{}]\nfn a() {{}}\n", concat!("#[ig", "nore")), "a/src/a.rs:1: an ignored test"),
            ("a/src/a.rs", sleeping, "a/src/a.rs:3: a sleep in a test"),
            (
                "a/src/a.rs",
                &format!("pub fn a() {{\n{}}}\n", "    b();\n".repeat(80)),
                "a/src/a.rs:1: a function of 82 lines",
            ),
            ("a/src/a.rs", &"// x\n".repeat(601), "a/src/a.rs:1: 601 lines"),
        ] {
            let found = one(path, text);
            assert!(found.starts_with(expected), "{found}");
        }
    }

    #[test]
    fn what_only_looks_like_a_violation_passes() {
        for (path, text) in [
            ("crates/sys/src/a.rs", "unsafe fn b() {}\n"),
            ("a/src/a.rs", "#![forbid(unsafe_code)]\n// unsafe, .unwrap()\nconst A: &str = \"unsafe .unwrap()\";\n"),
            ("a/tests/a.rs", "fn a() { b.unwrap() }\n"),
            ("a/src/a.rs", "#[cfg(test)]\nmod tests;\nfn a() {}\n"),
            (
                "a/src/a.rs",
                "#[cfg(test)]\nmod tests {\n    fn f() {\n        // waits: the kernel's own timer\n        sleep(x);\n    }\n}\n",
            ),
            ("a.md", "see https://example.org/work/ and ~/work/x\n"),
            ("empty.rs", ""),
        ] {
            assert_eq!(check(path, text), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn a_module_in_its_own_file_does_not_make_the_rest_a_test() {
        let found = one("a/src/a.rs", "#[cfg(test)]\nmod tests;\nfn a() { b.unwrap() }\n");
        assert!(found.contains(":3: .unwrap()"), "{found}");
    }
}
