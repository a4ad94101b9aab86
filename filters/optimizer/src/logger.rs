//! Log lines, and the last words of a panic, go to the host.

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::hostcalls;
use crate::types::LogLevel;

struct Logger;

/// Makes `log`'s macros and panics speak through the host, which filters by itself.
pub fn start() {
    // Fails where there is a logger already: there is none before this one.
    if log::set_logger(&Logger).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
    std::panic::set_hook(Box::new(|panic| {
        hostcalls::log(LogLevel::Critical, &panic.to_string());
    }));
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        let level = match record.level() {
            Level::Error => LogLevel::Error,
            Level::Warn => LogLevel::Warn,
            Level::Info => LogLevel::Info,
            Level::Debug => LogLevel::Debug,
            Level::Trace => LogLevel::Trace,
        };
        hostcalls::log(level, &record.args().to_string());
    }

    fn flush(&self) {}
}
