//! What the operator asked to be done with each record before it leaves. Pure.

use std::borrow::Cow;

use crate::partial::Record;
use crate::redact::Redactor;
use crate::severity::{self, Severity};

/// What is done with each record; by default nothing.
#[derive(Clone, Debug, Default)]
pub struct Process {
    /// Secrets are replaced.
    pub redact: Option<Redactor>,
    /// What a record says of its severity goes out with it.
    pub severity: bool,
    /// Records that say that they are less severe are left out; those that say nothing are not.
    pub severity_min: Option<Severity>,
}

impl Process {
    /// Records leave as they are.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.redact.is_none() && !self.severity && self.severity_min.is_none()
    }

    /// Changes the record. `Err`: it is left out, for this reason.
    ///
    /// # Errors
    ///
    /// It is less severe than asked for.
    pub fn apply(&self, record: &mut Record<'_>) -> Result<(), &'static str> {
        if self.severity || self.severity_min.is_some() {
            record.severity = severity::detect(&record.content);
            let bound = self.severity_min;
            if record.severity.zip(bound).is_some_and(|(of, min)| of < min) {
                return Err("severity");
            }
        }
        if let Some(redact) = &self.redact
            && let Cow::Owned(clean) = redact.apply(&record.content)
        {
            record.content = Cow::Owned(clean);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(content: &str) -> Record<'_> {
        Record {
            time: 1,
            stream: None,
            content: content.as_bytes().into(),
            truncated: false,
            unparsed: false,
            severity: None,
        }
    }

    #[test]
    fn severity_is_told_and_filtered_and_secrets_go() {
        let process = Process {
            redact: Some(Redactor::new(&["@password".into()]).unwrap()),
            severity: true,
            severity_min: Some(Severity::Warn),
        };
        for (content, want) in [
            ("INFO x", Err("severity")),
            (
                "ERROR password=x1",
                Ok((Some(Severity::Error), "ERROR ***")),
            ),
            ("who knows", Ok((None, "who knows"))),
        ] {
            let mut record = record(content);
            let got = process.apply(&mut record);
            let text = std::str::from_utf8(&record.content).unwrap();
            assert_eq!(got.map(|()| (record.severity, text)), want);
        }
        assert!(Process::default().is_nothing() && !process.is_nothing());
    }
}
