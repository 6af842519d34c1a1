//! The C ABI's types, constants and prototypes, written by bindgen from include/aieng.h. Do not edit: change the header,
//! then run `cargo xtask abi`. The asserts keep size, alignment and offsets equal to what the C compiler sees.

pub const AIENG_ABI_VERSION: u32 = 1;
pub const AIENG_ENGINE_UNPINNED: u32 = 1;
pub const AIENG_REQUEST_PARSE_SPECIAL: u32 = 1;
pub const AIENG_EVENT_TOKEN: u32 = 1;
pub const AIENG_EVENT_LOGPROBS: u32 = 2;
pub const AIENG_EVENT_FINISH: u32 = 4;
pub type aieng_status = u32;
pub const AIENG_OK: _bindgen_ty_1 = 0;
pub const AIENG_TIMEOUT: _bindgen_ty_1 = 1;
pub const AIENG_ERR_INVALID_ARGUMENT: _bindgen_ty_1 = 2;
pub const AIENG_ERR_IO: _bindgen_ty_1 = 3;
pub const AIENG_ERR_MODEL_FORMAT: _bindgen_ty_1 = 4;
pub const AIENG_ERR_UNSUPPORTED: _bindgen_ty_1 = 5;
pub const AIENG_ERR_BUSY: _bindgen_ty_1 = 6;
pub const AIENG_ERR_OUT_OF_MEMORY: _bindgen_ty_1 = 7;
pub const AIENG_ERR_CLOSED: _bindgen_ty_1 = 8;
pub const AIENG_ERR_INTERNAL: _bindgen_ty_1 = 9;
pub type _bindgen_ty_1 = ::core::ffi::c_uint;
#[repr(C)]
#[derive(Debug)]
pub struct aieng_engine {
    _unused: [u8; 0],
}
pub type aieng_device = u32;
pub const AIENG_DEVICE_AUTO: _bindgen_ty_2 = 0;
pub const AIENG_DEVICE_CPU: _bindgen_ty_2 = 1;
pub const AIENG_DEVICE_REFERENCE: _bindgen_ty_2 = 2;
pub type _bindgen_ty_2 = ::core::ffi::c_uint;
pub type aieng_isa = u32;
pub const AIENG_ISA_AUTO: _bindgen_ty_3 = 0;
pub const AIENG_ISA_PORTABLE: _bindgen_ty_3 = 1;
pub const AIENG_ISA_AVX2: _bindgen_ty_3 = 2;
pub const AIENG_ISA_AVX512: _bindgen_ty_3 = 3;
pub type _bindgen_ty_3 = ::core::ffi::c_uint;
pub type aieng_kv_type = u32;
pub const AIENG_KV_AUTO: _bindgen_ty_4 = 0;
pub const AIENG_KV_F32: _bindgen_ty_4 = 1;
pub const AIENG_KV_F16: _bindgen_ty_4 = 2;
pub const AIENG_KV_BF16: _bindgen_ty_4 = 3;
pub const AIENG_KV_Q8: _bindgen_ty_4 = 4;
pub type _bindgen_ty_4 = ::core::ffi::c_uint;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct aieng_engine_config {
    pub struct_size: u32,
    pub flags: u32,
    pub device: aieng_device,
    pub isa: aieng_isa,
    pub kv_type: aieng_kv_type,
    pub threads: u32,
    pub context: u32,
    pub max_sequences: u32,
    pub max_batch_tokens: u32,
    pub max_requests: u32,
    pub kv_tokens: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of aieng_engine_config"][::core::mem::size_of::<aieng_engine_config>() - 48usize];
    ["Alignment of aieng_engine_config"][::core::mem::align_of::<aieng_engine_config>() - 8usize];
    ["Offset of field: aieng_engine_config::struct_size"]
        [::core::mem::offset_of!(aieng_engine_config, struct_size) - 0usize];
    ["Offset of field: aieng_engine_config::flags"][::core::mem::offset_of!(aieng_engine_config, flags) - 4usize];
    ["Offset of field: aieng_engine_config::device"][::core::mem::offset_of!(aieng_engine_config, device) - 8usize];
    ["Offset of field: aieng_engine_config::isa"][::core::mem::offset_of!(aieng_engine_config, isa) - 12usize];
    ["Offset of field: aieng_engine_config::kv_type"][::core::mem::offset_of!(aieng_engine_config, kv_type) - 16usize];
    ["Offset of field: aieng_engine_config::threads"][::core::mem::offset_of!(aieng_engine_config, threads) - 20usize];
    ["Offset of field: aieng_engine_config::context"][::core::mem::offset_of!(aieng_engine_config, context) - 24usize];
    ["Offset of field: aieng_engine_config::max_sequences"]
        [::core::mem::offset_of!(aieng_engine_config, max_sequences) - 28usize];
    ["Offset of field: aieng_engine_config::max_batch_tokens"]
        [::core::mem::offset_of!(aieng_engine_config, max_batch_tokens) - 32usize];
    ["Offset of field: aieng_engine_config::max_requests"]
        [::core::mem::offset_of!(aieng_engine_config, max_requests) - 36usize];
    ["Offset of field: aieng_engine_config::kv_tokens"]
        [::core::mem::offset_of!(aieng_engine_config, kv_tokens) - 40usize];
};
#[repr(C)]
#[derive(Copy, Clone)]
pub struct aieng_sampling {
    pub struct_size: u32,
    pub temperature: f32,
    pub top_k: u32,
    pub top_p: f32,
    pub min_p: f32,
    pub repetition_penalty: f32,
    pub presence_penalty: f32,
    pub frequency_penalty: f32,
    pub seed: u64,
    pub max_tokens: u32,
    pub ignore_eos: u32,
    pub logprobs: u32,
    pub top_logprobs: u32,
    pub logit_bias_ids: *const u32,
    pub logit_bias_values: *const f32,
    pub logit_bias_count: usize,
    pub stop: *const *const ::core::ffi::c_char,
    pub stop_lengths: *const usize,
    pub stop_count: usize,
    pub stop_token_ids: *const u32,
    pub stop_token_count: usize,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of aieng_sampling"][::core::mem::size_of::<aieng_sampling>() - 120usize];
    ["Alignment of aieng_sampling"][::core::mem::align_of::<aieng_sampling>() - 8usize];
    ["Offset of field: aieng_sampling::struct_size"][::core::mem::offset_of!(aieng_sampling, struct_size) - 0usize];
    ["Offset of field: aieng_sampling::temperature"][::core::mem::offset_of!(aieng_sampling, temperature) - 4usize];
    ["Offset of field: aieng_sampling::top_k"][::core::mem::offset_of!(aieng_sampling, top_k) - 8usize];
    ["Offset of field: aieng_sampling::top_p"][::core::mem::offset_of!(aieng_sampling, top_p) - 12usize];
    ["Offset of field: aieng_sampling::min_p"][::core::mem::offset_of!(aieng_sampling, min_p) - 16usize];
    ["Offset of field: aieng_sampling::repetition_penalty"]
        [::core::mem::offset_of!(aieng_sampling, repetition_penalty) - 20usize];
    ["Offset of field: aieng_sampling::presence_penalty"]
        [::core::mem::offset_of!(aieng_sampling, presence_penalty) - 24usize];
    ["Offset of field: aieng_sampling::frequency_penalty"]
        [::core::mem::offset_of!(aieng_sampling, frequency_penalty) - 28usize];
    ["Offset of field: aieng_sampling::seed"][::core::mem::offset_of!(aieng_sampling, seed) - 32usize];
    ["Offset of field: aieng_sampling::max_tokens"][::core::mem::offset_of!(aieng_sampling, max_tokens) - 40usize];
    ["Offset of field: aieng_sampling::ignore_eos"][::core::mem::offset_of!(aieng_sampling, ignore_eos) - 44usize];
    ["Offset of field: aieng_sampling::logprobs"][::core::mem::offset_of!(aieng_sampling, logprobs) - 48usize];
    ["Offset of field: aieng_sampling::top_logprobs"][::core::mem::offset_of!(aieng_sampling, top_logprobs) - 52usize];
    ["Offset of field: aieng_sampling::logit_bias_ids"]
        [::core::mem::offset_of!(aieng_sampling, logit_bias_ids) - 56usize];
    ["Offset of field: aieng_sampling::logit_bias_values"]
        [::core::mem::offset_of!(aieng_sampling, logit_bias_values) - 64usize];
    ["Offset of field: aieng_sampling::logit_bias_count"]
        [::core::mem::offset_of!(aieng_sampling, logit_bias_count) - 72usize];
    ["Offset of field: aieng_sampling::stop"][::core::mem::offset_of!(aieng_sampling, stop) - 80usize];
    ["Offset of field: aieng_sampling::stop_lengths"][::core::mem::offset_of!(aieng_sampling, stop_lengths) - 88usize];
    ["Offset of field: aieng_sampling::stop_count"][::core::mem::offset_of!(aieng_sampling, stop_count) - 96usize];
    ["Offset of field: aieng_sampling::stop_token_ids"]
        [::core::mem::offset_of!(aieng_sampling, stop_token_ids) - 104usize];
    ["Offset of field: aieng_sampling::stop_token_count"]
        [::core::mem::offset_of!(aieng_sampling, stop_token_count) - 112usize];
};
#[repr(C)]
#[derive(Copy, Clone)]
pub struct aieng_message {
    pub struct_size: u32,
    pub reserved: u32,
    pub role: *const ::core::ffi::c_char,
    pub role_length: usize,
    pub content: *const ::core::ffi::c_char,
    pub content_length: usize,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of aieng_message"][::core::mem::size_of::<aieng_message>() - 40usize];
    ["Alignment of aieng_message"][::core::mem::align_of::<aieng_message>() - 8usize];
    ["Offset of field: aieng_message::struct_size"][::core::mem::offset_of!(aieng_message, struct_size) - 0usize];
    ["Offset of field: aieng_message::reserved"][::core::mem::offset_of!(aieng_message, reserved) - 4usize];
    ["Offset of field: aieng_message::role"][::core::mem::offset_of!(aieng_message, role) - 8usize];
    ["Offset of field: aieng_message::role_length"][::core::mem::offset_of!(aieng_message, role_length) - 16usize];
    ["Offset of field: aieng_message::content"][::core::mem::offset_of!(aieng_message, content) - 24usize];
    ["Offset of field: aieng_message::content_length"]
        [::core::mem::offset_of!(aieng_message, content_length) - 32usize];
};
#[repr(C)]
#[derive(Copy, Clone)]
pub struct aieng_request {
    pub struct_size: u32,
    pub flags: u32,
    pub token_ids: *const u32,
    pub token_count: usize,
    pub text: *const ::core::ffi::c_char,
    pub text_length: usize,
    pub messages: *const aieng_message,
    pub message_count: usize,
    pub sampling: *const aieng_sampling,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of aieng_request"][::core::mem::size_of::<aieng_request>() - 64usize];
    ["Alignment of aieng_request"][::core::mem::align_of::<aieng_request>() - 8usize];
    ["Offset of field: aieng_request::struct_size"][::core::mem::offset_of!(aieng_request, struct_size) - 0usize];
    ["Offset of field: aieng_request::flags"][::core::mem::offset_of!(aieng_request, flags) - 4usize];
    ["Offset of field: aieng_request::token_ids"][::core::mem::offset_of!(aieng_request, token_ids) - 8usize];
    ["Offset of field: aieng_request::token_count"][::core::mem::offset_of!(aieng_request, token_count) - 16usize];
    ["Offset of field: aieng_request::text"][::core::mem::offset_of!(aieng_request, text) - 24usize];
    ["Offset of field: aieng_request::text_length"][::core::mem::offset_of!(aieng_request, text_length) - 32usize];
    ["Offset of field: aieng_request::messages"][::core::mem::offset_of!(aieng_request, messages) - 40usize];
    ["Offset of field: aieng_request::message_count"][::core::mem::offset_of!(aieng_request, message_count) - 48usize];
    ["Offset of field: aieng_request::sampling"][::core::mem::offset_of!(aieng_request, sampling) - 56usize];
};
pub type aieng_finish_reason = u32;
pub const AIENG_FINISH_NONE: _bindgen_ty_5 = 0;
pub const AIENG_FINISH_STOP: _bindgen_ty_5 = 1;
pub const AIENG_FINISH_LENGTH: _bindgen_ty_5 = 2;
pub const AIENG_FINISH_CANCELLED: _bindgen_ty_5 = 3;
pub const AIENG_FINISH_ERROR: _bindgen_ty_5 = 4;
pub const AIENG_FINISH_DEADLINE: _bindgen_ty_5 = 5;
pub type _bindgen_ty_5 = ::core::ffi::c_uint;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct aieng_event {
    pub struct_size: u32,
    pub flags: u32,
    pub storage: u64,
    pub request_id: u64,
    pub text: *const ::core::ffi::c_char,
    pub text_length: usize,
    pub token_id: u32,
    pub logprob: f32,
    pub top_token_ids: *const u32,
    pub top_logprobs: *const f32,
    pub top_count: usize,
    pub finish_reason: aieng_finish_reason,
    pub status: aieng_status,
    pub message: *const ::core::ffi::c_char,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    pub ttft_ns: u64,
    pub tpot_ns: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of aieng_event"][::core::mem::size_of::<aieng_event>() - 120usize];
    ["Alignment of aieng_event"][::core::mem::align_of::<aieng_event>() - 8usize];
    ["Offset of field: aieng_event::struct_size"][::core::mem::offset_of!(aieng_event, struct_size) - 0usize];
    ["Offset of field: aieng_event::flags"][::core::mem::offset_of!(aieng_event, flags) - 4usize];
    ["Offset of field: aieng_event::storage"][::core::mem::offset_of!(aieng_event, storage) - 8usize];
    ["Offset of field: aieng_event::request_id"][::core::mem::offset_of!(aieng_event, request_id) - 16usize];
    ["Offset of field: aieng_event::text"][::core::mem::offset_of!(aieng_event, text) - 24usize];
    ["Offset of field: aieng_event::text_length"][::core::mem::offset_of!(aieng_event, text_length) - 32usize];
    ["Offset of field: aieng_event::token_id"][::core::mem::offset_of!(aieng_event, token_id) - 40usize];
    ["Offset of field: aieng_event::logprob"][::core::mem::offset_of!(aieng_event, logprob) - 44usize];
    ["Offset of field: aieng_event::top_token_ids"][::core::mem::offset_of!(aieng_event, top_token_ids) - 48usize];
    ["Offset of field: aieng_event::top_logprobs"][::core::mem::offset_of!(aieng_event, top_logprobs) - 56usize];
    ["Offset of field: aieng_event::top_count"][::core::mem::offset_of!(aieng_event, top_count) - 64usize];
    ["Offset of field: aieng_event::finish_reason"][::core::mem::offset_of!(aieng_event, finish_reason) - 72usize];
    ["Offset of field: aieng_event::status"][::core::mem::offset_of!(aieng_event, status) - 76usize];
    ["Offset of field: aieng_event::message"][::core::mem::offset_of!(aieng_event, message) - 80usize];
    ["Offset of field: aieng_event::prompt_tokens"][::core::mem::offset_of!(aieng_event, prompt_tokens) - 88usize];
    ["Offset of field: aieng_event::completion_tokens"]
        [::core::mem::offset_of!(aieng_event, completion_tokens) - 96usize];
    ["Offset of field: aieng_event::ttft_ns"][::core::mem::offset_of!(aieng_event, ttft_ns) - 104usize];
    ["Offset of field: aieng_event::tpot_ns"][::core::mem::offset_of!(aieng_event, tpot_ns) - 112usize];
};
unsafe extern "C" {
    pub fn aieng_version() -> *const ::core::ffi::c_char;
    pub fn aieng_abi_version() -> u32;
    pub fn aieng_status_name(status: aieng_status) -> *const ::core::ffi::c_char;
    pub fn aieng_last_error() -> *const ::core::ffi::c_char;
    pub fn aieng_engine_create(
        path: *const ::core::ffi::c_char,
        config: *const aieng_engine_config,
        engine: *mut *mut aieng_engine,
    ) -> aieng_status;
    pub fn aieng_engine_destroy(engine: *mut aieng_engine) -> aieng_status;
    pub fn aieng_submit(engine: *mut aieng_engine, request: *const aieng_request, request_id: *mut u64)
    -> aieng_status;
    pub fn aieng_cancel(engine: *mut aieng_engine, request_id: u64) -> aieng_status;
    pub fn aieng_next(engine: *mut aieng_engine, timeout_ms: i64, event: *mut aieng_event) -> aieng_status;
    pub fn aieng_event_clear(event: *mut aieng_event) -> aieng_status;
}
