//! The few WASI calls that a Rust module for `wasm32-wasip1` imports.

use wasmtime::{Caller, Linker, Result, bail};

use crate::abi::Guest;
use crate::vm::{LogLine, State};

const SUCCESS: u32 = 0;
const BAD_FILE: u32 = 8;

/// Registers them.
pub(crate) fn link(linker: &mut Linker<State>) -> Result<()> {
    const WASI: &str = "wasi_snapshot_preview1";
    linker
        .func_wrap(WASI, "proc_exit", |code: u32| -> Result<()> { bail!("proc_exit({code})") })?;
    linker.func_wrap(WASI, "sched_yield", || SUCCESS)?;
    linker.func_wrap(WASI, "fd_close", |_: u32| BAD_FILE)?;
    linker.func_wrap(WASI, "fd_fdstat_get", |_: u32, _: u32| BAD_FILE)?;
    linker.func_wrap(WASI, "fd_seek", |_: u32, _: i64, _: u32, _: u32| BAD_FILE)?;
    linker.func_wrap(WASI, "fd_prestat_get", |_: u32, _: u32| BAD_FILE)?;
    linker.func_wrap(WASI, "fd_write", fd_write)?;
    linker.func_wrap(WASI, "random_get", random_get)?;
    linker.func_wrap(WASI, "clock_time_get", clock_time_get)?;
    linker.func_wrap(WASI, "args_sizes_get", |caller: Caller<'_, State>, count, size| {
        Guest::new(caller).and_then(|mut guest| {
            guest.write(count, &0u32.to_le_bytes())?;
            guest.write(size, &0u32.to_le_bytes())?;
            Ok(SUCCESS)
        })
    })?;
    linker.func_wrap(WASI, "args_get", |_: u32, _: u32| SUCCESS)?;
    linker.func_wrap(WASI, "environ_sizes_get", environ_sizes_get)?;
    linker.func_wrap(WASI, "environ_get", environ_get)?;
    Ok(())
}

/// What the module prints is logged: standard output as info, the rest (panics) as errors.
fn fd_write(
    caller: Caller<'_, State>,
    fd: u32,
    list: u32,
    count: u32,
    written: u32,
) -> Result<u32> {
    let mut guest = Guest::new(caller)?;
    let mut text = Vec::new();
    for index in 0..count {
        let (start, size) = (guest.word(list + index * 8)?, guest.word(list + index * 8 + 4)?);
        text.extend(guest.read(start, size)?);
    }
    guest.write(written, &(text.len() as u32).to_le_bytes())?;
    guest.state().logs.push(LogLine {
        level: if fd == 1 { 2 } else { 4 },
        text: String::from_utf8_lossy(&text).trim_end().to_owned(),
    });
    Ok(SUCCESS)
}

/// The same numbers in every run, so that a failing test fails again.
fn random_get(caller: Caller<'_, State>, at: u32, size: u32) -> Result<u32> {
    let mut guest = Guest::new(caller)?;
    let random: Vec<u8> = (0..size)
        .map(|_| {
            let seed = &mut guest.state().random;
            *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (*seed >> 56) as u8
        })
        .collect();
    guest.write(at, &random)?;
    Ok(SUCCESS)
}

fn clock_time_get(caller: Caller<'_, State>, clock: u32, _precision: i64, at: u32) -> Result<u32> {
    const REALTIME: u32 = 0;
    let mut guest = Guest::new(caller)?;
    let state = guest.state();
    let time = match clock {
        REALTIME => state.settings.epoch + state.now,
        _ => state.now,
    };
    guest.write(at, &(time.as_nanos() as u64).to_le_bytes())?;
    Ok(SUCCESS)
}

fn environ(guest: &mut Guest<'_>) -> Vec<Vec<u8>> {
    let pairs = guest.state().settings.env.iter();
    pairs.map(|(name, value)| format!("{name}={value}\0").into_bytes()).collect()
}

fn environ_sizes_get(caller: Caller<'_, State>, count: u32, size: u32) -> Result<u32> {
    let mut guest = Guest::new(caller)?;
    let entries = environ(&mut guest);
    let total: usize = entries.iter().map(Vec::len).sum();
    guest.write(count, &(entries.len() as u32).to_le_bytes())?;
    guest.write(size, &(total as u32).to_le_bytes())?;
    Ok(SUCCESS)
}

fn environ_get(caller: Caller<'_, State>, mut list: u32, mut buffer: u32) -> Result<u32> {
    let mut guest = Guest::new(caller)?;
    for entry in environ(&mut guest) {
        guest.write(list, &buffer.to_le_bytes())?;
        guest.write(buffer, &entry)?;
        list += 4;
        buffer += entry.len() as u32;
    }
    Ok(SUCCESS)
}
