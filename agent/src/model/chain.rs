//! An error with all its causes on one line, for the place where it is logged.

use std::{error::Error, fmt};

/// Displays `error: cause: cause of the cause`.
pub struct Chain<'a>(pub &'a (dyn Error + 'a));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(cause) = next {
            write!(f, ": {cause}")?;
            next = cause.source();
        }
        Ok(())
    }
}

/// The same as text.
pub fn chain(error: &dyn Error) -> String {
    Chain(error).to_string()
}
