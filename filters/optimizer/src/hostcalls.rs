//! Host calls that never panic, whatever the host's status and whatever bytes a
//! client puts into its headers.

use std::borrow::Cow;
use std::ptr::{null, null_mut};
use std::time::Duration;

use optimizer_core::roomy::Roomy;

use crate::allocator;
use crate::types::{BufferType, LogLevel, MapType, MetricType, StreamType};

/// `NotFound` of the Proxy-Wasm ABI.
pub const NOT_FOUND: u32 = 1;
const OK: u32 = 0;

mod abi {
    //! Proxy-Wasm ABI 0.2.1, with statuses as plain numbers: hosts answer with
    //! statuses that the ABI does not know.
    unsafe extern "C" {
        pub fn proxy_log(level: u32, text: *const u8, size: usize) -> u32;
        pub fn proxy_http_call(
            upstream: *const u8,
            upstream_size: usize,
            headers: *const u8,
            headers_size: usize,
            body: *const u8,
            body_size: usize,
            trailers: *const u8,
            trailers_size: usize,
            timeout: u32,
            token: *mut u32,
        ) -> u32;
        pub fn proxy_get_current_time_nanoseconds(time: *mut u64) -> u32;
        pub fn proxy_set_tick_period_milliseconds(period: u32) -> u32;
        pub fn proxy_get_buffer_bytes(
            buffer: u32,
            start: usize,
            max_size: usize,
            data: *mut *mut u8,
            size: *mut usize,
        ) -> u32;
        pub fn proxy_set_buffer_bytes(
            buffer: u32,
            start: usize,
            size: usize,
            data: *const u8,
            data_size: usize,
        ) -> u32;
        pub fn proxy_get_header_map_pairs(map: u32, data: *mut *mut u8, size: *mut usize) -> u32;
        pub fn proxy_get_header_map_value(
            map: u32,
            key: *const u8,
            key_size: usize,
            data: *mut *mut u8,
            size: *mut usize,
        ) -> u32;
        pub fn proxy_replace_header_map_value(
            map: u32,
            key: *const u8,
            key_size: usize,
            value: *const u8,
            value_size: usize,
        ) -> u32;
        pub fn proxy_remove_header_map_value(map: u32, key: *const u8, key_size: usize) -> u32;
        pub fn proxy_get_property(
            path: *const u8,
            path_size: usize,
            data: *mut *mut u8,
            size: *mut usize,
        ) -> u32;
        pub fn proxy_set_property(
            path: *const u8,
            path_size: usize,
            value: *const u8,
            value_size: usize,
        ) -> u32;
        pub fn proxy_get_shared_data(
            key: *const u8,
            key_size: usize,
            data: *mut *mut u8,
            size: *mut usize,
            cas: *mut u32,
        ) -> u32;
        pub fn proxy_set_shared_data(
            key: *const u8,
            key_size: usize,
            value: *const u8,
            value_size: usize,
            cas: u32,
        ) -> u32;
        pub fn proxy_set_effective_context(context: u32) -> u32;
        pub fn proxy_continue_stream(stream: u32) -> u32;
        pub fn proxy_send_local_response(
            status: u32,
            details: *const u8,
            details_size: usize,
            body: *const u8,
            body_size: usize,
            headers: *const u8,
            headers_size: usize,
            grpc_status: i32,
        ) -> u32;
        pub fn proxy_define_metric(
            kind: u32,
            name: *const u8,
            name_size: usize,
            id: *mut u32,
        ) -> u32;
        pub fn proxy_record_metric(id: u32, value: u64) -> u32;
        pub fn proxy_increment_metric(id: u32, offset: i64) -> u32;
    }
}

/// Takes over a buffer that the host allocated in this module.
///
/// # Safety
/// `data` and `size` must be what a host call returned just now: a boxed slice
/// made by `proxy_on_memory_allocate`, or null.
unsafe fn owned(data: *mut u8, size: usize) -> Vec<u8> {
    if data.is_null() || size == 0 {
        return Vec::new();
    }
    // SAFETY: by contract an allocation of exactly `size` bytes that nobody else owns.
    unsafe { Vec::from_raw_parts(data, size, size) }
}

/// The time since the Unix epoch.
pub fn now() -> Duration {
    let mut nanoseconds = 0;
    // SAFETY: the pointer is valid for the call.
    unsafe { abi::proxy_get_current_time_nanoseconds(&mut nanoseconds) };
    Duration::from_nanos(nanoseconds)
}

/// Asks for ticks, [`Duration::ZERO`] for none.
pub fn set_tick_period(period: Duration) {
    let milliseconds = u32::try_from(period.as_millis()).unwrap_or(u32::MAX);
    // SAFETY: takes no pointers.
    unsafe { abi::proxy_set_tick_period_milliseconds(milliseconds) };
}

/// Up to `max_size` bytes from the beginning of a buffer.
pub fn buffer(buffer: BufferType, max_size: usize) -> Option<Vec<u8>> {
    let (mut data, mut size) = (null_mut(), 0);
    // SAFETY: the pointers are valid for the call; what comes back is ours.
    unsafe {
        let status = abi::proxy_get_buffer_bytes(buffer as u32, 0, max_size, &mut data, &mut size);
        (status == OK).then(|| owned(data, size))
    }
}

/// The same, with room around it.
pub fn roomy_buffer(buffer: BufferType, max_size: usize) -> Option<Roomy> {
    let (mut data, mut size) = (null_mut(), 0);
    // SAFETY: the pointers are valid for the call.
    let (status, has_room) = allocator::leaving_room(|| unsafe {
        abi::proxy_get_buffer_bytes(buffer as u32, 0, max_size, &mut data, &mut size)
    });
    if status != OK {
        return None;
    }
    // SAFETY: what came back is ours; with room, the allocation begins and ends that much further out.
    Some(unsafe {
        if !has_room || data.is_null() {
            Roomy::new(owned(data, size), 0)
        } else {
            let begin = data.wrapping_sub(Roomy::BEFORE);
            begin.write_bytes(0, Roomy::BEFORE);
            let length = size.wrapping_add(Roomy::BEFORE);
            let capacity = length.wrapping_add(Roomy::BEHIND);
            Roomy::new(Vec::from_raw_parts(begin, length, capacity), Roomy::BEFORE)
        }
    })
}

/// Asks for one byte of a buffer and leaves it where the host puts it; whether there is one.
pub fn touch_buffer(buffer: BufferType) -> bool {
    let (mut data, mut size) = (null_mut(), 0);
    // SAFETY: the pointers are valid for the call.
    let status = unsafe { abi::proxy_get_buffer_bytes(buffer as u32, 0, 1, &mut data, &mut size) };
    status == OK
}

/// Replaces a buffer from `start` to its end.
pub fn replace_buffer(buffer: BufferType, start: usize, bytes: &[u8]) {
    // SAFETY: the pointers are valid for the call.
    unsafe {
        abi::proxy_set_buffer_bytes(buffer as u32, start, usize::MAX, bytes.as_ptr(), bytes.len());
    }
}

/// Headers as the ABI serialises them; see [`pairs`].
pub fn header_map(map: MapType) -> Vec<u8> {
    let (mut data, mut size) = (null_mut(), 0);
    // SAFETY: the pointers are valid for the call; what comes back is ours.
    unsafe {
        match abi::proxy_get_header_map_pairs(map as u32, &mut data, &mut size) {
            OK => owned(data, size),
            _ => Vec::new(),
        }
    }
}

/// The first value of a header.
pub fn header(map: MapType, name: &str) -> Option<Vec<u8>> {
    let (mut data, mut size) = (null_mut(), 0);
    // SAFETY: the pointers are valid for the call; what comes back is ours.
    unsafe {
        let status = abi::proxy_get_header_map_value(
            map as u32,
            name.as_ptr(),
            name.len(),
            &mut data,
            &mut size,
        );
        (status == OK).then(|| owned(data, size))
    }
}

/// The pairs of a serialised map: their number, then the lengths of all keys
/// and values, then keys and values, each followed by NUL. Ends where the map is none.
pub fn pairs(map: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    fn number(bytes: [u8; 4]) -> usize {
        usize::try_from(u32::from_le_bytes(bytes)).unwrap_or(usize::MAX)
    }
    let (&count, rest) = map.split_first_chunk::<4>().unwrap_or((&[0; 4], &[]));
    let (lengths, texts) =
        rest.split_at_checked(number(count).saturating_mul(8)).unwrap_or_default();
    let mut at: usize = 0;
    let mut text = move |length: usize| {
        let end = at.wrapping_add(length);
        let text = texts.get(at..end)?;
        at = end.wrapping_add(1);
        Some(text)
    };
    lengths.as_chunks::<8>().0.iter().map_while(move |&[a, b, c, d, e, f, g, h]| {
        Some((text(number([a, b, c, d]))?, text(number([e, f, g, h]))?))
    })
}

fn serialized(pairs: &[Header]) -> Vec<u8> {
    // Lengths are those of our own short headers.
    let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes();
    let mut out = Vec::with_capacity(512);
    out.extend(number(pairs.len()));
    for (key, value) in pairs {
        out.extend(number(key.len()));
        out.extend(number(value.len()));
    }
    for (key, value) in pairs {
        for text in [*key, &**value] {
            out.extend_from_slice(text.as_bytes());
            out.push(0);
        }
    }
    out
}

/// A header of our own.
pub type Header = (&'static str, Cow<'static, str>);

/// Calls another service; the token that comes back with its answer, unless the host refused.
pub fn call(upstream: &str, headers: &[Header], body: &[u8], timeout: Duration) -> Option<u32> {
    let headers = serialized(headers);
    // A map of no pairs.
    let trailers = [0; 4];
    let timeout = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
    let mut token = 0;
    // SAFETY: the pointers are valid for the call.
    let status = unsafe {
        abi::proxy_http_call(
            upstream.as_ptr(),
            upstream.len(),
            headers.as_ptr(),
            headers.len(),
            body.as_ptr(),
            body.len(),
            trailers.as_ptr(),
            trailers.len(),
            timeout,
            &mut token,
        )
    };
    (status == OK).then_some(token)
}

/// Writes a line to the host's log.
pub fn log(level: LogLevel, text: &str) {
    // SAFETY: the pointer is valid for the call.
    unsafe { abi::proxy_log(level as u32, text.as_ptr(), text.len()) };
}

/// Sets a header, replacing all of its values.
pub fn set_header(map: MapType, name: &str, value: &str) {
    // SAFETY: the pointers are valid for the call.
    unsafe {
        abi::proxy_replace_header_map_value(
            map as u32,
            name.as_ptr(),
            name.len(),
            value.as_ptr(),
            value.len(),
        );
    }
}

/// Removes a header, all of its values.
pub fn remove_header(map: MapType, name: &str) {
    // SAFETY: the pointer is valid for the call.
    unsafe { abi::proxy_remove_header_map_value(map as u32, name.as_ptr(), name.len()) };
}

fn joined(path: &[impl AsRef<str>]) -> String {
    path.iter().map(AsRef::as_ref).collect::<Vec<_>>().join("\0")
}

/// A property of the host.
///
/// # Errors
/// The host's status.
pub fn property(path: &[impl AsRef<str>]) -> Result<Vec<u8>, u32> {
    property_at(&joined(path))
}

/// The same, for a path whose parts are divided by NUL.
///
/// # Errors
/// The host's status.
pub fn property_at(path: &str) -> Result<Vec<u8>, u32> {
    let (mut data, mut size) = (null_mut(), 0);
    // SAFETY: the pointers are valid for the call; what comes back is ours.
    unsafe {
        match abi::proxy_get_property(path.as_ptr(), path.len(), &mut data, &mut size) {
            OK => Ok(owned(data, size)),
            status => Err(status),
        }
    }
}

/// Sets a property of the exchange.
pub fn set_property(name: &str, value: &str) {
    // SAFETY: the pointers are valid for the call.
    unsafe {
        abi::proxy_set_property(name.as_ptr(), name.len(), value.as_ptr(), value.len());
    }
}

/// A value shared among workers.
pub fn shared_data(key: &str) -> Option<Vec<u8>> {
    let (mut data, mut size, mut cas) = (null_mut(), 0, 0);
    // SAFETY: the pointers are valid for the call; what comes back is ours.
    unsafe {
        let status =
            abi::proxy_get_shared_data(key.as_ptr(), key.len(), &mut data, &mut size, &mut cas);
        (status == OK).then(|| owned(data, size))
    }
}

/// Sets a value shared among workers, whatever it was.
pub fn set_shared_data(key: &str, value: &[u8]) {
    // SAFETY: the pointers are valid for the call.
    unsafe {
        abi::proxy_set_shared_data(key.as_ptr(), key.len(), value.as_ptr(), value.len(), 0);
    }
}

/// Makes the calls that follow those of another context; whether it still exists.
pub fn set_effective_context(context: u32) -> bool {
    // SAFETY: takes no pointers.
    unsafe { abi::proxy_set_effective_context(context) == OK }
}

/// Lets a message that was held go on.
pub fn continue_stream(stream: StreamType) {
    // SAFETY: takes no pointers.
    unsafe { abi::proxy_continue_stream(stream as u32) };
}

/// Answers the client.
pub fn send_response(status: u32, headers: &[Header], body: &[u8]) {
    const NO_GRPC_STATUS: i32 = -1;
    let headers = serialized(headers);
    // SAFETY: the pointers are valid for the call.
    unsafe {
        abi::proxy_send_local_response(
            status,
            null(),
            0,
            body.as_ptr(),
            body.len(),
            headers.as_ptr(),
            headers.len(),
            NO_GRPC_STATUS,
        );
    }
}

/// Defines a metric and returns its id.
pub fn define_metric(kind: MetricType, name: &str) -> Option<u32> {
    let mut id = 0;
    // SAFETY: the pointers are valid for the call.
    let status =
        unsafe { abi::proxy_define_metric(kind as u32, name.as_ptr(), name.len(), &mut id) };
    (status == OK).then_some(id)
}

/// Records a value in a histogram.
pub fn record_metric(id: u32, value: u64) {
    // SAFETY: takes no pointers.
    unsafe { abi::proxy_record_metric(id, value) };
}

/// Adds to a counter.
pub fn increment_metric(id: u32, offset: u64) {
    // SAFETY: takes no pointers.
    unsafe { abi::proxy_increment_metric(id, i64::try_from(offset).unwrap_or(i64::MAX)) };
}
