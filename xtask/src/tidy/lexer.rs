//! Just enough of Rust's grammar to tell code from text: strings and comments are blanked out, lines stay lines.

/// A source file twice, both with the lines of the original: only its code, and only its comments.
pub(super) struct Lexed {
    pub(super) code: String,
    pub(super) comments: String,
}

/// Splits a file. Whatever is not code becomes spaces in `code`; whatever is not a comment becomes spaces in `comments`.
pub(super) fn lex(text: &str) -> Lexed {
    let characters: Vec<char> = text.chars().collect();
    let mut lexed = Lexed { code: String::with_capacity(text.len()), comments: String::with_capacity(text.len()) };
    let mut at = 0;
    while at < characters.len() {
        let (kind, end) = token(&characters, at);
        for character in &characters[at..end] {
            let blank = if *character == '\n' { '\n' } else { ' ' };
            lexed.code.push(if kind == Kind::Code { *character } else { blank });
            lexed.comments.push(if kind == Kind::Comment { *character } else { blank });
        }
        at = end;
    }
    lexed
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Code,
    Comment,
    Text,
}

/// The token that begins at `at`: its kind and its end.
fn token(characters: &[char], at: usize) -> (Kind, usize) {
    let next = |offset: usize| characters.get(at + offset).copied().unwrap_or('\0');
    match characters[at] {
        '/' if next(1) == '/' => (Kind::Comment, find(characters, at, |character| character == '\n')),
        '/' if next(1) == '*' => (Kind::Comment, block_comment(characters, at)),
        '"' => (Kind::Text, quoted(characters, at)),
        'r' if matches!(next(1), '"' | '#') && !inside_word(characters, at) => raw_string(characters, at),
        'b' if next(1) == 'r' && matches!(next(2), '"' | '#') && !inside_word(characters, at) => {
            raw_string(characters, at + 1)
        }
        // A character, not a lifetime: it is closed after one character or after an escape.
        '\'' if next(1) == '\\' => (Kind::Text, find(characters, at + 3, |character| character == '\'') + 1),
        '\'' if next(2) == '\'' => (Kind::Text, at + 3),
        _ => (Kind::Code, at + 1),
    }
    .clamp_end(characters.len())
}

trait ClampEnd {
    fn clamp_end(self, end: usize) -> Self;
}

impl ClampEnd for (Kind, usize) {
    fn clamp_end(self, end: usize) -> Self {
        (self.0, self.1.min(end))
    }
}

fn inside_word(characters: &[char], at: usize) -> bool {
    // `br"` is entered at its `b`, so a word's letter before means an ordinary name that ends in r.
    at > 0 && (characters[at - 1].is_alphanumeric() || characters[at - 1] == '_')
}

fn find(characters: &[char], from: usize, wanted: impl Fn(char) -> bool) -> usize {
    (from..characters.len()).find(|at| wanted(characters[*at])).unwrap_or(characters.len())
}

fn quoted(characters: &[char], at: usize) -> usize {
    let mut position = at + 1;
    while position < characters.len() {
        match characters[position] {
            '\\' => position += 2,
            '"' => return position + 1,
            _ => position += 1,
        }
    }
    characters.len()
}

fn raw_string(characters: &[char], at: usize) -> (Kind, usize) {
    let hashes = characters[at + 1..].iter().take_while(|character| **character == '#').count();
    let open = at + 1 + hashes;
    if characters.get(open) != Some(&'"') {
        // A raw identifier such as `r#type`.
        return (Kind::Code, at + 1);
    }
    let closes = |end: usize| {
        characters[end] == '"' && characters[end + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes
    };
    let end = (open + 1..characters.len()).find(|end| closes(*end)).unwrap_or(characters.len());
    (Kind::Text, end + 1 + hashes)
}

fn block_comment(characters: &[char], at: usize) -> usize {
    let mut depth = 0_usize;
    let mut position = at;
    while position + 1 < characters.len() {
        match (characters[position], characters[position + 1]) {
            ('/', '*') => {
                depth += 1;
                position += 2;
            }
            ('*', '/') => {
                depth -= 1;
                position += 2;
                if depth == 0 {
                    return position;
                }
            }
            _ => position += 1,
        }
    }
    characters.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_and_comments_are_not_code() {
        let text =
            "let a = \"unsafe // \\\" x\"; // unsafe\nlet b = r#\"a \" b\"#; /* x /* y */ z */ c('\"', '\\'', &'a d)";
        let lexed = lex(text);
        assert_eq!(lexed.code.split_whitespace().collect::<Vec<_>>().join(" "), "let a = ; let b = ; c( , , &'a d)");
        assert_eq!(lexed.comments.split_whitespace().collect::<Vec<_>>().join(" "), "// unsafe /* x /* y */ z */");
        assert_eq!(lexed.code.lines().count(), 2);
    }

    #[test]
    fn an_open_string_ends_with_the_file() {
        assert_eq!(lex("a \"b").code, "a   ");
        assert_eq!(lex("a r#\"b\"").code.trim(), "a");
        assert_eq!(lex("x '").code, "x '");
    }
}
