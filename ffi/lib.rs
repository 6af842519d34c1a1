//! The C ABI of aieng: what include/aieng.h declares, one module for each of its sections.
//!
//! `abi` is the header as Rust sees it, generated. `input` reads structs, strings and arrays that come from the caller and
//! fills those that go back, `handle` turns handles into engines and event storage, `callback` calls the caller's functions,
//! `fork` keeps children of fork(2) off their parent's engines, and `guard` stands between every exported function and the
//! caller: errors become statuses there, and panics end there.
//!
//! Invariants: no panic crosses into the caller; no pointer of the caller is kept beyond its call; whatever the caller
//! passes is checked before it is used, as far as C lets a callee check.

#[cfg(not(target_pointer_width = "64"))]
compile_error!("aieng's handles and struct layouts are those of 64-bit targets");

#[allow(non_camel_case_types, unused, missing_docs, unsafe_op_in_unsafe_fn)]
mod abi;
mod callback;
mod engine;
mod event;
mod fork;
mod guard;
mod handle;
mod input;
mod metrics;
mod request;
mod status;
mod text;
mod version;

/// Holds each exported function against its prototype in the header: an array's elements have one type.
macro_rules! as_declared {
    ($($module:ident::$function:ident)*) => {
        $(const _: () = { let _ = [$module::$function, abi::$function]; };)*
    };
}

as_declared! {
    version::aieng_version
    version::aieng_abi_version
    version::aieng_build_describe
    status::aieng_status_name
    status::aieng_last_error
    engine::aieng_engine_create
    engine::aieng_engine_destroy
    engine::aieng_engine_shutdown
    engine::aieng_engine_describe
    request::aieng_submit
    request::aieng_cancel
    event::aieng_next
    event::aieng_events_clear
    event::aieng_event_fd
    text::aieng_tokenize
    text::aieng_detokenize
    text::aieng_render
    metrics::aieng_metrics_read
    metrics::aieng_metrics_text
}
