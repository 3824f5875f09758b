use std::io::IsTerminal;

use crate::cli::{Failure, Out};

/// Columns of a bar for the commits of one second.
const BAR: usize = 28;

/// Commits in a second that fill a bar: one every 5 ms.
const FULL: usize = 200;

/// What the demo shows. Colours only for a person's eye and only beside words that say the same.
pub(super) struct Screen<'a> {
    out: &'a mut Out,
    colours: bool,
    act: usize,
}

/// A colour of a terminal (ECMA-48, SGR).
#[derive(Debug, Clone, Copy)]
pub(super) enum Colour {
    /// Something good.
    Green,
    /// Something bad.
    Red,
    /// Something to look at.
    Bold,
    /// Something beside the point.
    Dim,
}

impl<'a> Screen<'a> {
    /// Writes to the command's output.
    pub(super) fn new(out: &'a mut Out) -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { out, colours: wanted && std::io::stdout().is_terminal(), act: 0 }
    }

    /// Text in a colour, if there are colours.
    pub(super) fn paint(&self, colour: Colour, text: &str) -> String {
        let code = match colour {
            Colour::Green => 32,
            Colour::Red => 31,
            Colour::Bold => 1,
            Colour::Dim => 2,
        };
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// The beginning of an act.
    pub(super) fn act(&mut self, title: &str) -> Result<(), Failure> {
        self.act += 1;
        let title = self.paint(Colour::Bold, &format!("{}. {title}", self.act));
        self.out.line(&format!("\n{title}"))
    }

    /// A line below it.
    pub(super) fn say(&mut self, text: &str) -> Result<(), Failure> {
        for line in text.lines() {
            self.out.line(&format!("   {line}"))?;
        }
        Ok(())
    }

    /// A promise that was kept.
    pub(super) fn kept(&mut self, text: &str) -> Result<(), Failure> {
        let mark = self.paint(Colour::Green, "ok");
        self.out.line(&format!("   {mark}  {text}"))
    }

    /// A promise that was broken.
    pub(super) fn broken(&mut self, text: &str) -> Result<(), Failure> {
        let mark = self.paint(Colour::Red, "BROKEN");
        self.out.line(&format!("   {mark}  {text}"))
    }

    /// One second: who leads by the members' word, and how many commits there were.
    pub(super) fn second(&mut self, second: i64, leader: &str, commits: usize, note: &str) -> Result<(), Failure> {
        let filled = if commits == 0 { 0 } else { (commits * BAR / FULL).clamp(1, BAR) };
        let bar = "#".repeat(filled);
        let bar = if self.colours { self.paint(Colour::Green, &"\u{2588}".repeat(filled)) } else { bar };
        let blanks = " ".repeat(BAR - filled);
        let number = format!("{commits:>4}");
        let number = if commits == 0 { self.paint(Colour::Red, &number) } else { number };
        let note = self.paint(Colour::Dim, note);
        let line = format!("   {second:>+4} s  {leader:<5}  {number} commits  {bar}{blanks}  {note}");
        self.out.line(line.trim_end())
    }

    /// The output itself.
    pub(super) fn out(&mut self) -> &mut Out {
        self.out
    }
}
