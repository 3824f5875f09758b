use std::path::{Path, PathBuf};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, UndefinedBehavior};

use crate::builtin::BuiltIn;
use crate::context::Context;

/// A longer template is a mistake, such as a log given in its place.
const BYTES_MAX: u64 = 1 << 20;

/// What a file is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Template {
    /// One that comes with pgbaton.
    BuiltIn(BuiltIn),
    /// A file, read anew each time.
    File(PathBuf),
}

/// Why nothing was made.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The template cannot be read.
    #[error("cannot read the template {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It is no template, or asks for what there is not.
    #[error("the template {name} is wrong in line {line}")]
    Wrong {
        /// Its name.
        name: String,
        /// The line; 0: not known.
        line: usize,
        /// What it is about.
        #[source]
        source: Box<minijinja::Error>,
    },
}

impl Template {
    /// Makes the text.
    ///
    /// # Errors
    /// A template that cannot be read, or is wrong: an unknown variable is, too.
    pub fn render(&self, context: &Context) -> Result<String, TemplateError> {
        match self {
            Self::BuiltIn(template) => render(template.name(), template.text(), context),
            Self::File(path) => render(&path.display().to_string(), &read(path)?, context),
        }
    }

    /// Whether a file of it is left as it is while there is no primary.
    pub fn needs_primary(&self) -> bool {
        matches!(self, Self::BuiltIn(template) if template.needs_primary())
    }
}

fn read(path: &Path) -> Result<String, TemplateError> {
    let failed = |source| TemplateError::Read { path: path.to_owned(), source };
    let size = std::fs::metadata(path).map_err(failed)?.len();
    if size > BYTES_MAX {
        return Err(failed(std::io::Error::other(format!("it has {size} bytes, more than {BYTES_MAX}"))));
    }
    std::fs::read_to_string(path).map_err(failed)
}

fn render(name: &str, text: &str, context: &Context) -> Result<String, TemplateError> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    let wrong = |source: minijinja::Error| TemplateError::Wrong {
        name: name.to_owned(),
        line: source.line().unwrap_or(0),
        source: Box::new(source),
    };
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(true).build();
    environment.set_syntax(syntax.map_err(wrong)?);
    environment.render_named_str(name, text, Serde(context)).map_err(wrong)
}
