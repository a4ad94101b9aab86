//! Command lines: `--name value`, each name known, errors that name it.

use std::collections::BTreeMap;
use std::str::FromStr;

/// The arguments of one program.
#[derive(Debug)]
pub struct Arguments(BTreeMap<String, String>);

impl Arguments {
    /// Reads this process's arguments.
    ///
    /// # Errors
    /// What is no option, or has no value.
    pub fn of_process() -> Result<Self, lexopt::Error> {
        let mut parser = lexopt::Parser::from_env();
        let mut found = BTreeMap::new();
        while let Some(argument) = parser.next()? {
            let lexopt::Arg::Long(name) = argument else { return Err(argument.unexpected()) };
            let name = name.to_owned();
            found.insert(name, parser.value()?.into_string()?);
        }
        Ok(Self(found))
    }

    /// Takes the value of `--name`, or `default`.
    ///
    /// # Errors
    /// The value cannot be read.
    pub fn take<T>(&mut self, name: &str, default: Option<T>) -> Result<T, String>
    where
        T: FromStr<Err: std::fmt::Display>,
    {
        match (self.0.remove(name), default) {
            (Some(text), _) => text.parse().map_err(|error| format!("--{name} {text}: {error}")),
            (None, Some(default)) => Ok(default),
            (None, None) => Err(format!("--{name} is missing")),
        }
    }

    /// Everything has been taken.
    ///
    /// # Errors
    /// Something has not.
    pub fn finish(self) -> Result<(), String> {
        match self.0.into_keys().next() {
            Some(name) => Err(format!("--{name}: no such option")),
            None => Ok(()),
        }
    }
}
