//! What is wrong with one object, and where in it.

use std::fmt;

/// Why an object was skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectError {
    /// Path inside the object: `spec.containers[0].ports[1].containerPort`. Empty for the object as a whole.
    pub path: String,
    /// What is wrong there.
    pub message: String,
}

impl ObjectError {
    /// An error at a field.
    #[must_use]
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            message: message.into(),
        }
    }

    /// The same error, seen from the field's parent: paths are built on the way out, only when there is an error.
    #[must_use]
    pub fn under(mut self, parent: &str) -> Self {
        self.path = join(parent, &self.path);
        self
    }
}

impl fmt::Display for ObjectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.path, self.message)
        }
    }
}

impl std::error::Error for ObjectError {}

/// Two parts of a path: `a` and `b` are `a.b`, `a` and `[3]` are `a[3]`.
pub(crate) fn join(parent: &str, child: &str) -> String {
    match (parent, child) {
        ("", only) | (only, "") => only.to_owned(),
        (parent, child) if child.starts_with('[') => format!("{parent}{child}"),
        (parent, child) => format!("{parent}.{child}"),
    }
}
