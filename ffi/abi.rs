//! The C ABI's types, constants and prototypes, written by bindgen from include/aieng.h. Do not edit: change the header,
//! then run `cargo xtask abi`. The asserts keep size, alignment and offsets equal to what the C compiler sees.

pub const AIENG_ABI_VERSION: u32 = 1;
pub const AIENG_ENGINE_UNPINNED: u32 = 1;
pub const AIENG_ENGINE_NO_PREFIX_CACHE: u32 = 2;
pub const AIENG_SAMPLING_IGNORE_EOS: u32 = 1;
pub const AIENG_SAMPLING_LOGPROBS: u32 = 2;
pub const AIENG_REQUEST_PARSE_SPECIAL: u32 = 1;
pub const AIENG_REQUEST_ECHO: u32 = 2;
pub const AIENG_REQUEST_PROMPT_LOGPROBS: u32 = 4;
pub const AIENG_REQUEST_SCORE: u32 = 8;
pub const AIENG_REQUEST_NO_PREFIX_CACHE: u32 = 16;
pub const AIENG_EVENT_TOKEN: u32 = 1;
pub const AIENG_EVENT_LOGPROBS: u32 = 2;
pub const AIENG_EVENT_PROMPT: u32 = 4;
pub const AIENG_EVENT_FINISH: u32 = 8;
pub const AIENG_EVENT_LAST: u32 = 16;
pub const AIENG_TOKENIZE_BOS: u32 = 1;
pub const AIENG_TOKENIZE_PARSE_SPECIAL: u32 = 2;
pub const AIENG_DETOKENIZE_SPECIAL: u32 = 1;
pub const AIENG_BUCKETS: u32 = 22;
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
pub const AIENG_ERR_CANCELLED: _bindgen_ty_1 = 10;
pub type _bindgen_ty_1 = ::core::ffi::c_uint;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct aieng_build_info {
    pub struct_size: u32,
    pub abi_version: u32,
    pub version: *const ::core::ffi::c_char,
    pub revision: *const ::core::ffi::c_char,
    pub target: *const ::core::ffi::c_char,
    pub profile: *const ::core::ffi::c_char,
    pub compiler: *const ::core::ffi::c_char,
    pub kernels: *const ::core::ffi::c_char,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of aieng_build_info"][::core::mem::size_of::<aieng_build_info>() - 56usize];
    ["Alignment of aieng_build_info"][::core::mem::align_of::<aieng_build_info>() - 8usize];
    ["Offset of field: aieng_build_info::struct_size"][::core::mem::offset_of!(aieng_build_info, struct_size) - 0usize];
    ["Offset of field: aieng_build_info::abi_version"][::core::mem::offset_of!(aieng_build_info, abi_version) - 4usize];
    ["Offset of field: aieng_build_info::version"][::core::mem::offset_of!(aieng_build_info, version) - 8usize];
    ["Offset of field: aieng_build_info::revision"][::core::mem::offset_of!(aieng_build_info, revision) - 16usize];
    ["Offset of field: aieng_build_info::target"][::core::mem::offset_of!(aieng_build_info, target) - 24usize];
    ["Offset of field: aieng_build_info::profile"][::core::mem::offset_of!(aieng_build_info, profile) - 32usize];
    ["Offset of field: aieng_build_info::compiler"][::core::mem::offset_of!(aieng_build_info, compiler) - 40usize];
    ["Offset of field: aieng_build_info::kernels"][::core::mem::offset_of!(aieng_build_info, kernels) - 48usize];
};
#[repr(C)]
#[derive(Debug)]
pub struct aieng_engine {
    _unused: [u8; 0],
}
pub type aieng_device = u32;
pub const AIENG_DEVICE_AUTO: _bindgen_ty_2 = 0;
pub const AIENG_DEVICE_CPU: _bindgen_ty_2 = 1;
pub const AIENG_DEVICE_REFERENCE: _bindgen_ty_2 = 2;
pub const AIENG_DEVICE_SIMULATED: _bindgen_ty_2 = 3;
pub const AIENG_DEVICE_CUDA: _bindgen_ty_2 = 4;
pub type _bindgen_ty_2 = ::core::ffi::c_uint;
pub type aieng_isa = u32;
pub const AIENG_ISA_AUTO: _bindgen_ty_3 = 0;
pub const AIENG_ISA_PORTABLE: _bindgen_ty_3 = 1;
pub const AIENG_ISA_AVX2: _bindgen_ty_3 = 2;
pub const AIENG_ISA_AVX512: _bindgen_ty_3 = 3;
pub const AIENG_ISA_AVX512_BF16: _bindgen_ty_3 = 4;
pub const AIENG_ISA_AMX: _bindgen_ty_3 = 5;
pub const AIENG_ISA_AVX_VNNI: _bindgen_ty_3 = 6;
pub type _bindgen_ty_3 = ::core::ffi::c_uint;
pub type aieng_kv_type = u32;
pub const AIENG_KV_AUTO: _bindgen_ty_4 = 0;
pub const AIENG_KV_F32: _bindgen_ty_4 = 1;
pub const AIENG_KV_F16: _bindgen_ty_4 = 2;
pub const AIENG_KV_BF16: _bindgen_ty_4 = 3;
pub const AIENG_KV_Q8: _bindgen_ty_4 = 4;
pub type _bindgen_ty_4 = ::core::ffi::c_uint;
pub type aieng_policy = u32;
pub const AIENG_POLICY_CONTINUOUS: _bindgen_ty_5 = 0;
pub const AIENG_POLICY_DYNAMIC: _bindgen_ty_5 = 1;
pub const AIENG_POLICY_STATIC: _bindgen_ty_5 = 2;
pub type _bindgen_ty_5 = ::core::ffi::c_uint;
pub type aieng_log_level = u32;
pub const AIENG_LOG_DEFAULT: _bindgen_ty_6 = 0;
pub const AIENG_LOG_ERROR: _bindgen_ty_6 = 1;
pub const AIENG_LOG_WARN: _bindgen_ty_6 = 2;
pub const AIENG_LOG_INFO: _bindgen_ty_6 = 3;
pub const AIENG_LOG_DEBUG: _bindgen_ty_6 = 4;
pub type _bindgen_ty_6 = ::core::ffi::c_uint;
pub type aieng_log_fn = ::core::option::Option<
    unsafe extern "C" fn(
        user_data: *mut ::core::ffi::c_void,
        level: aieng_log_level,
        target: *const ::core::ffi::c_char,
        message: *const ::core::ffi::c_char,
    ),
>;
pub type aieng_progress_fn =
    ::core::option::Option<unsafe extern "C" fn(user_data: *mut ::core::ffi::c_void, fraction: f32) -> u32>;
pub type aieng_event_fn =
    ::core::option::Option<unsafe extern "C" fn(user_data: *mut ::core::ffi::c_void, event: *const aieng_event)>;
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
    pub kv_bytes: u64,
    pub policy: aieng_policy,
    pub policy_size: u32,
    pub policy_wait_ms: u32,
    pub ageing_ms: u32,
    pub tenants: *const u32,
    pub tenant_weights: *const u32,
    pub tenant_count: usize,
    pub progress: aieng_progress_fn,
    pub progress_data: *mut ::core::ffi::c_void,
    pub log: aieng_log_fn,
    pub log_data: *mut ::core::ffi::c_void,
    pub on_event: aieng_event_fn,
    pub event_data: *mut ::core::ffi::c_void,
    pub log_level: aieng_log_level,
    pub simulated_step_us: u32,
    pub gpu: u32,
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of aieng_engine_config"][::core::mem::size_of::<aieng_engine_config>() - 160usize];
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
    ["Offset of field: aieng_engine_config::kv_bytes"]
        [::core::mem::offset_of!(aieng_engine_config, kv_bytes) - 48usize];
    ["Offset of field: aieng_engine_config::policy"][::core::mem::offset_of!(aieng_engine_config, policy) - 56usize];
    ["Offset of field: aieng_engine_config::policy_size"]
        [::core::mem::offset_of!(aieng_engine_config, policy_size) - 60usize];
    ["Offset of field: aieng_engine_config::policy_wait_ms"]
        [::core::mem::offset_of!(aieng_engine_config, policy_wait_ms) - 64usize];
    ["Offset of field: aieng_engine_config::ageing_ms"]
        [::core::mem::offset_of!(aieng_engine_config, ageing_ms) - 68usize];
    ["Offset of field: aieng_engine_config::tenants"][::core::mem::offset_of!(aieng_engine_config, tenants) - 72usize];
    ["Offset of field: aieng_engine_config::tenant_weights"]
        [::core::mem::offset_of!(aieng_engine_config, tenant_weights) - 80usize];
    ["Offset of field: aieng_engine_config::tenant_count"]
        [::core::mem::offset_of!(aieng_engine_config, tenant_count) - 88usize];
    ["Offset of field: aieng_engine_config::progress"]
        [::core::mem::offset_of!(aieng_engine_config, progress) - 96usize];
    ["Offset of field: aieng_engine_config::progress_data"]
        [::core::mem::offset_of!(aieng_engine_config, progress_data) - 104usize];
    ["Offset of field: aieng_engine_config::log"][::core::mem::offset_of!(aieng_engine_config, log) - 112usize];
    ["Offset of field: aieng_engine_config::log_data"]
        [::core::mem::offset_of!(aieng_engine_config, log_data) - 120usize];
    ["Offset of field: aieng_engine_config::on_event"]
        [::core::mem::offset_of!(aieng_engine_config, on_event) - 128usize];
    ["Offset of field: aieng_engine_config::event_data"]
        [::core::mem::offset_of!(aieng_engine_config, event_data) - 136usize];
    ["Offset of field: aieng_engine_config::log_level"]
        [::core::mem::offset_of!(aieng_engine_config, log_level) - 144usize];
    ["Offset of field: aieng_engine_config::simulated_step_us"]
        [::core::mem::offset_of!(aieng_engine_config, simulated_step_us) - 148usize];
    ["Offset of field: aieng_engine_config::gpu"][::core::mem::offset_of!(aieng_engine_config, gpu) - 152usize];
    ["Offset of field: aieng_engine_config::reserved"]
        [::core::mem::offset_of!(aieng_engine_config, reserved) - 156usize];
};
#[repr(C)]
#[derive(Copy, Clone)]
pub struct aieng_engine_info {
    pub struct_size: u32,
    pub device: aieng_device,
    pub isa: aieng_isa,
    pub kv_type: aieng_kv_type,
    pub kernels: *const ::core::ffi::c_char,
    pub model_name: *const ::core::ffi::c_char,
    pub architecture: *const ::core::ffi::c_char,
    pub fingerprint: [u64; 2usize],
    pub weight_bytes: u64,
    pub kv_bytes: u64,
    pub kv_tokens: u64,
    pub threads: u32,
    pub context: u32,
    pub max_sequences: u32,
    pub max_batch_tokens: u32,
    pub max_requests: u32,
    pub vocab_size: u32,
    pub has_chat_template: u32,
    pub bos_token: u32,
    pub gpu: *const ::core::ffi::c_char,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of aieng_engine_info"][::core::mem::size_of::<aieng_engine_info>() - 120usize];
    ["Alignment of aieng_engine_info"][::core::mem::align_of::<aieng_engine_info>() - 8usize];
    ["Offset of field: aieng_engine_info::struct_size"]
        [::core::mem::offset_of!(aieng_engine_info, struct_size) - 0usize];
    ["Offset of field: aieng_engine_info::device"][::core::mem::offset_of!(aieng_engine_info, device) - 4usize];
    ["Offset of field: aieng_engine_info::isa"][::core::mem::offset_of!(aieng_engine_info, isa) - 8usize];
    ["Offset of field: aieng_engine_info::kv_type"][::core::mem::offset_of!(aieng_engine_info, kv_type) - 12usize];
    ["Offset of field: aieng_engine_info::kernels"][::core::mem::offset_of!(aieng_engine_info, kernels) - 16usize];
    ["Offset of field: aieng_engine_info::model_name"]
        [::core::mem::offset_of!(aieng_engine_info, model_name) - 24usize];
    ["Offset of field: aieng_engine_info::architecture"]
        [::core::mem::offset_of!(aieng_engine_info, architecture) - 32usize];
    ["Offset of field: aieng_engine_info::fingerprint"]
        [::core::mem::offset_of!(aieng_engine_info, fingerprint) - 40usize];
    ["Offset of field: aieng_engine_info::weight_bytes"]
        [::core::mem::offset_of!(aieng_engine_info, weight_bytes) - 56usize];
    ["Offset of field: aieng_engine_info::kv_bytes"][::core::mem::offset_of!(aieng_engine_info, kv_bytes) - 64usize];
    ["Offset of field: aieng_engine_info::kv_tokens"][::core::mem::offset_of!(aieng_engine_info, kv_tokens) - 72usize];
    ["Offset of field: aieng_engine_info::threads"][::core::mem::offset_of!(aieng_engine_info, threads) - 80usize];
    ["Offset of field: aieng_engine_info::context"][::core::mem::offset_of!(aieng_engine_info, context) - 84usize];
    ["Offset of field: aieng_engine_info::max_sequences"]
        [::core::mem::offset_of!(aieng_engine_info, max_sequences) - 88usize];
    ["Offset of field: aieng_engine_info::max_batch_tokens"]
        [::core::mem::offset_of!(aieng_engine_info, max_batch_tokens) - 92usize];
    ["Offset of field: aieng_engine_info::max_requests"]
        [::core::mem::offset_of!(aieng_engine_info, max_requests) - 96usize];
    ["Offset of field: aieng_engine_info::vocab_size"]
        [::core::mem::offset_of!(aieng_engine_info, vocab_size) - 100usize];
    ["Offset of field: aieng_engine_info::has_chat_template"]
        [::core::mem::offset_of!(aieng_engine_info, has_chat_template) - 104usize];
    ["Offset of field: aieng_engine_info::bos_token"][::core::mem::offset_of!(aieng_engine_info, bos_token) - 108usize];
    ["Offset of field: aieng_engine_info::gpu"][::core::mem::offset_of!(aieng_engine_info, gpu) - 112usize];
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
    pub min_tokens: u32,
    pub flags: u32,
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
    ["Offset of field: aieng_sampling::min_tokens"][::core::mem::offset_of!(aieng_sampling, min_tokens) - 44usize];
    ["Offset of field: aieng_sampling::flags"][::core::mem::offset_of!(aieng_sampling, flags) - 48usize];
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
    pub chat_json: *const ::core::ffi::c_char,
    pub chat_json_length: usize,
    pub sampling: *const aieng_sampling,
    pub user_data: u64,
    pub n: u32,
    pub best_of: u32,
    pub priority: i32,
    pub tenant: u32,
    pub deadline_ms: u32,
    pub prompt_top_logprobs: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of aieng_request"][::core::mem::size_of::<aieng_request>() - 112usize];
    ["Alignment of aieng_request"][::core::mem::align_of::<aieng_request>() - 8usize];
    ["Offset of field: aieng_request::struct_size"][::core::mem::offset_of!(aieng_request, struct_size) - 0usize];
    ["Offset of field: aieng_request::flags"][::core::mem::offset_of!(aieng_request, flags) - 4usize];
    ["Offset of field: aieng_request::token_ids"][::core::mem::offset_of!(aieng_request, token_ids) - 8usize];
    ["Offset of field: aieng_request::token_count"][::core::mem::offset_of!(aieng_request, token_count) - 16usize];
    ["Offset of field: aieng_request::text"][::core::mem::offset_of!(aieng_request, text) - 24usize];
    ["Offset of field: aieng_request::text_length"][::core::mem::offset_of!(aieng_request, text_length) - 32usize];
    ["Offset of field: aieng_request::messages"][::core::mem::offset_of!(aieng_request, messages) - 40usize];
    ["Offset of field: aieng_request::message_count"][::core::mem::offset_of!(aieng_request, message_count) - 48usize];
    ["Offset of field: aieng_request::chat_json"][::core::mem::offset_of!(aieng_request, chat_json) - 56usize];
    ["Offset of field: aieng_request::chat_json_length"]
        [::core::mem::offset_of!(aieng_request, chat_json_length) - 64usize];
    ["Offset of field: aieng_request::sampling"][::core::mem::offset_of!(aieng_request, sampling) - 72usize];
    ["Offset of field: aieng_request::user_data"][::core::mem::offset_of!(aieng_request, user_data) - 80usize];
    ["Offset of field: aieng_request::n"][::core::mem::offset_of!(aieng_request, n) - 88usize];
    ["Offset of field: aieng_request::best_of"][::core::mem::offset_of!(aieng_request, best_of) - 92usize];
    ["Offset of field: aieng_request::priority"][::core::mem::offset_of!(aieng_request, priority) - 96usize];
    ["Offset of field: aieng_request::tenant"][::core::mem::offset_of!(aieng_request, tenant) - 100usize];
    ["Offset of field: aieng_request::deadline_ms"][::core::mem::offset_of!(aieng_request, deadline_ms) - 104usize];
    ["Offset of field: aieng_request::prompt_top_logprobs"]
        [::core::mem::offset_of!(aieng_request, prompt_top_logprobs) - 108usize];
};
pub type aieng_finish_reason = u32;
pub const AIENG_FINISH_NONE: _bindgen_ty_7 = 0;
pub const AIENG_FINISH_STOP: _bindgen_ty_7 = 1;
pub const AIENG_FINISH_LENGTH: _bindgen_ty_7 = 2;
pub const AIENG_FINISH_CANCELLED: _bindgen_ty_7 = 3;
pub const AIENG_FINISH_ERROR: _bindgen_ty_7 = 4;
pub const AIENG_FINISH_DEADLINE: _bindgen_ty_7 = 5;
pub type _bindgen_ty_7 = ::core::ffi::c_uint;
pub type aieng_stop_cause = u32;
pub const AIENG_STOP_NONE: _bindgen_ty_8 = 0;
pub const AIENG_STOP_EOS: _bindgen_ty_8 = 1;
pub const AIENG_STOP_TOKEN: _bindgen_ty_8 = 2;
pub const AIENG_STOP_STRING: _bindgen_ty_8 = 3;
pub type _bindgen_ty_8 = ::core::ffi::c_uint;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct aieng_finish {
    pub struct_size: u32,
    pub reason: aieng_finish_reason,
    pub stop_cause: aieng_stop_cause,
    pub stop_token: u32,
    pub stop_index: u32,
    pub status: aieng_status,
    pub message: *const ::core::ffi::c_char,
    pub message_length: usize,
    pub prompt_tokens: u64,
    pub cached_tokens: u64,
    pub completion_tokens: u64,
    pub queue_ns: u64,
    pub prefill_ns: u64,
    pub decode_ns: u64,
    pub ttft_ns: u64,
    pub tpot_ns: u64,
    pub model_fingerprint: [u64; 2usize],
    pub kernels: *const ::core::ffi::c_char,
    pub determinism: *const ::core::ffi::c_char,
    pub seed: u64,
    pub seed_sample: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of aieng_finish"][::core::mem::size_of::<aieng_finish>() - 152usize];
    ["Alignment of aieng_finish"][::core::mem::align_of::<aieng_finish>() - 8usize];
    ["Offset of field: aieng_finish::struct_size"][::core::mem::offset_of!(aieng_finish, struct_size) - 0usize];
    ["Offset of field: aieng_finish::reason"][::core::mem::offset_of!(aieng_finish, reason) - 4usize];
    ["Offset of field: aieng_finish::stop_cause"][::core::mem::offset_of!(aieng_finish, stop_cause) - 8usize];
    ["Offset of field: aieng_finish::stop_token"][::core::mem::offset_of!(aieng_finish, stop_token) - 12usize];
    ["Offset of field: aieng_finish::stop_index"][::core::mem::offset_of!(aieng_finish, stop_index) - 16usize];
    ["Offset of field: aieng_finish::status"][::core::mem::offset_of!(aieng_finish, status) - 20usize];
    ["Offset of field: aieng_finish::message"][::core::mem::offset_of!(aieng_finish, message) - 24usize];
    ["Offset of field: aieng_finish::message_length"][::core::mem::offset_of!(aieng_finish, message_length) - 32usize];
    ["Offset of field: aieng_finish::prompt_tokens"][::core::mem::offset_of!(aieng_finish, prompt_tokens) - 40usize];
    ["Offset of field: aieng_finish::cached_tokens"][::core::mem::offset_of!(aieng_finish, cached_tokens) - 48usize];
    ["Offset of field: aieng_finish::completion_tokens"]
        [::core::mem::offset_of!(aieng_finish, completion_tokens) - 56usize];
    ["Offset of field: aieng_finish::queue_ns"][::core::mem::offset_of!(aieng_finish, queue_ns) - 64usize];
    ["Offset of field: aieng_finish::prefill_ns"][::core::mem::offset_of!(aieng_finish, prefill_ns) - 72usize];
    ["Offset of field: aieng_finish::decode_ns"][::core::mem::offset_of!(aieng_finish, decode_ns) - 80usize];
    ["Offset of field: aieng_finish::ttft_ns"][::core::mem::offset_of!(aieng_finish, ttft_ns) - 88usize];
    ["Offset of field: aieng_finish::tpot_ns"][::core::mem::offset_of!(aieng_finish, tpot_ns) - 96usize];
    ["Offset of field: aieng_finish::model_fingerprint"]
        [::core::mem::offset_of!(aieng_finish, model_fingerprint) - 104usize];
    ["Offset of field: aieng_finish::kernels"][::core::mem::offset_of!(aieng_finish, kernels) - 120usize];
    ["Offset of field: aieng_finish::determinism"][::core::mem::offset_of!(aieng_finish, determinism) - 128usize];
    ["Offset of field: aieng_finish::seed"][::core::mem::offset_of!(aieng_finish, seed) - 136usize];
    ["Offset of field: aieng_finish::seed_sample"][::core::mem::offset_of!(aieng_finish, seed_sample) - 144usize];
};
#[repr(C)]
#[derive(Copy, Clone)]
pub struct aieng_token_logprob {
    pub token_id: u32,
    pub logprob: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of aieng_token_logprob"][::core::mem::size_of::<aieng_token_logprob>() - 8usize];
    ["Alignment of aieng_token_logprob"][::core::mem::align_of::<aieng_token_logprob>() - 4usize];
    ["Offset of field: aieng_token_logprob::token_id"][::core::mem::offset_of!(aieng_token_logprob, token_id) - 0usize];
    ["Offset of field: aieng_token_logprob::logprob"][::core::mem::offset_of!(aieng_token_logprob, logprob) - 4usize];
};
#[repr(C)]
#[derive(Copy, Clone)]
pub struct aieng_event {
    pub struct_size: u32,
    pub flags: u32,
    pub storage: u64,
    pub request_id: u64,
    pub user_data: u64,
    pub sample: u32,
    pub token_id: u32,
    pub text: *const ::core::ffi::c_char,
    pub text_length: usize,
    pub top: *const aieng_token_logprob,
    pub top_count: u32,
    pub logprob: f32,
    pub finish: *const aieng_finish,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of aieng_event"][::core::mem::size_of::<aieng_event>() - 80usize];
    ["Alignment of aieng_event"][::core::mem::align_of::<aieng_event>() - 8usize];
    ["Offset of field: aieng_event::struct_size"][::core::mem::offset_of!(aieng_event, struct_size) - 0usize];
    ["Offset of field: aieng_event::flags"][::core::mem::offset_of!(aieng_event, flags) - 4usize];
    ["Offset of field: aieng_event::storage"][::core::mem::offset_of!(aieng_event, storage) - 8usize];
    ["Offset of field: aieng_event::request_id"][::core::mem::offset_of!(aieng_event, request_id) - 16usize];
    ["Offset of field: aieng_event::user_data"][::core::mem::offset_of!(aieng_event, user_data) - 24usize];
    ["Offset of field: aieng_event::sample"][::core::mem::offset_of!(aieng_event, sample) - 32usize];
    ["Offset of field: aieng_event::token_id"][::core::mem::offset_of!(aieng_event, token_id) - 36usize];
    ["Offset of field: aieng_event::text"][::core::mem::offset_of!(aieng_event, text) - 40usize];
    ["Offset of field: aieng_event::text_length"][::core::mem::offset_of!(aieng_event, text_length) - 48usize];
    ["Offset of field: aieng_event::top"][::core::mem::offset_of!(aieng_event, top) - 56usize];
    ["Offset of field: aieng_event::top_count"][::core::mem::offset_of!(aieng_event, top_count) - 64usize];
    ["Offset of field: aieng_event::logprob"][::core::mem::offset_of!(aieng_event, logprob) - 68usize];
    ["Offset of field: aieng_event::finish"][::core::mem::offset_of!(aieng_event, finish) - 72usize];
};
#[repr(C)]
#[derive(Copy, Clone)]
pub struct aieng_histogram {
    pub counts: [u64; 23usize],
    pub sum_ns: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of aieng_histogram"][::core::mem::size_of::<aieng_histogram>() - 192usize];
    ["Alignment of aieng_histogram"][::core::mem::align_of::<aieng_histogram>() - 8usize];
    ["Offset of field: aieng_histogram::counts"][::core::mem::offset_of!(aieng_histogram, counts) - 0usize];
    ["Offset of field: aieng_histogram::sum_ns"][::core::mem::offset_of!(aieng_histogram, sum_ns) - 184usize];
};
#[repr(C)]
#[derive(Copy, Clone)]
pub struct aieng_metrics {
    pub struct_size: u32,
    pub buckets: u32,
    pub bucket_bounds: *const f64,
    pub running: u64,
    pub waiting: u64,
    pub kv_blocks_used: u64,
    pub kv_blocks: u64,
    pub prefix_queries: u64,
    pub prefix_hits: u64,
    pub evictions: u64,
    pub preemptions: u64,
    pub prompt_tokens: u64,
    pub generation_tokens: u64,
    pub finished_stop: u64,
    pub finished_length: u64,
    pub finished_cancelled: u64,
    pub finished_error: u64,
    pub finished_deadline: u64,
    pub rejected_busy: u64,
    pub rejected_invalid: u64,
    pub steps: u64,
    pub step_ns: u64,
    pub kernel_ns: u64,
    pub time_to_first_token: aieng_histogram,
    pub inter_token_latency: aieng_histogram,
    pub e2e_latency: aieng_histogram,
    pub queue_time: aieng_histogram,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of aieng_metrics"][::core::mem::size_of::<aieng_metrics>() - 944usize];
    ["Alignment of aieng_metrics"][::core::mem::align_of::<aieng_metrics>() - 8usize];
    ["Offset of field: aieng_metrics::struct_size"][::core::mem::offset_of!(aieng_metrics, struct_size) - 0usize];
    ["Offset of field: aieng_metrics::buckets"][::core::mem::offset_of!(aieng_metrics, buckets) - 4usize];
    ["Offset of field: aieng_metrics::bucket_bounds"][::core::mem::offset_of!(aieng_metrics, bucket_bounds) - 8usize];
    ["Offset of field: aieng_metrics::running"][::core::mem::offset_of!(aieng_metrics, running) - 16usize];
    ["Offset of field: aieng_metrics::waiting"][::core::mem::offset_of!(aieng_metrics, waiting) - 24usize];
    ["Offset of field: aieng_metrics::kv_blocks_used"]
        [::core::mem::offset_of!(aieng_metrics, kv_blocks_used) - 32usize];
    ["Offset of field: aieng_metrics::kv_blocks"][::core::mem::offset_of!(aieng_metrics, kv_blocks) - 40usize];
    ["Offset of field: aieng_metrics::prefix_queries"]
        [::core::mem::offset_of!(aieng_metrics, prefix_queries) - 48usize];
    ["Offset of field: aieng_metrics::prefix_hits"][::core::mem::offset_of!(aieng_metrics, prefix_hits) - 56usize];
    ["Offset of field: aieng_metrics::evictions"][::core::mem::offset_of!(aieng_metrics, evictions) - 64usize];
    ["Offset of field: aieng_metrics::preemptions"][::core::mem::offset_of!(aieng_metrics, preemptions) - 72usize];
    ["Offset of field: aieng_metrics::prompt_tokens"][::core::mem::offset_of!(aieng_metrics, prompt_tokens) - 80usize];
    ["Offset of field: aieng_metrics::generation_tokens"]
        [::core::mem::offset_of!(aieng_metrics, generation_tokens) - 88usize];
    ["Offset of field: aieng_metrics::finished_stop"][::core::mem::offset_of!(aieng_metrics, finished_stop) - 96usize];
    ["Offset of field: aieng_metrics::finished_length"]
        [::core::mem::offset_of!(aieng_metrics, finished_length) - 104usize];
    ["Offset of field: aieng_metrics::finished_cancelled"]
        [::core::mem::offset_of!(aieng_metrics, finished_cancelled) - 112usize];
    ["Offset of field: aieng_metrics::finished_error"]
        [::core::mem::offset_of!(aieng_metrics, finished_error) - 120usize];
    ["Offset of field: aieng_metrics::finished_deadline"]
        [::core::mem::offset_of!(aieng_metrics, finished_deadline) - 128usize];
    ["Offset of field: aieng_metrics::rejected_busy"][::core::mem::offset_of!(aieng_metrics, rejected_busy) - 136usize];
    ["Offset of field: aieng_metrics::rejected_invalid"]
        [::core::mem::offset_of!(aieng_metrics, rejected_invalid) - 144usize];
    ["Offset of field: aieng_metrics::steps"][::core::mem::offset_of!(aieng_metrics, steps) - 152usize];
    ["Offset of field: aieng_metrics::step_ns"][::core::mem::offset_of!(aieng_metrics, step_ns) - 160usize];
    ["Offset of field: aieng_metrics::kernel_ns"][::core::mem::offset_of!(aieng_metrics, kernel_ns) - 168usize];
    ["Offset of field: aieng_metrics::time_to_first_token"]
        [::core::mem::offset_of!(aieng_metrics, time_to_first_token) - 176usize];
    ["Offset of field: aieng_metrics::inter_token_latency"]
        [::core::mem::offset_of!(aieng_metrics, inter_token_latency) - 368usize];
    ["Offset of field: aieng_metrics::e2e_latency"][::core::mem::offset_of!(aieng_metrics, e2e_latency) - 560usize];
    ["Offset of field: aieng_metrics::queue_time"][::core::mem::offset_of!(aieng_metrics, queue_time) - 752usize];
};
unsafe extern "C" {
    pub fn aieng_version() -> *const ::core::ffi::c_char;
    pub fn aieng_abi_version() -> u32;
    pub fn aieng_status_name(status: aieng_status) -> *const ::core::ffi::c_char;
    pub fn aieng_last_error() -> *const ::core::ffi::c_char;
    pub fn aieng_build_describe(info: *mut aieng_build_info) -> aieng_status;
    pub fn aieng_engine_create(
        path: *const ::core::ffi::c_char,
        config: *const aieng_engine_config,
        engine: *mut *mut aieng_engine,
    ) -> aieng_status;
    pub fn aieng_engine_destroy(engine: *mut aieng_engine) -> aieng_status;
    pub fn aieng_engine_shutdown(engine: *mut aieng_engine) -> aieng_status;
    pub fn aieng_engine_describe(engine: *mut aieng_engine, info: *mut aieng_engine_info) -> aieng_status;
    pub fn aieng_submit(engine: *mut aieng_engine, request: *const aieng_request, request_id: *mut u64)
    -> aieng_status;
    pub fn aieng_cancel(engine: *mut aieng_engine, request_id: u64) -> aieng_status;
    pub fn aieng_next(
        engine: *mut aieng_engine,
        events: *mut aieng_event,
        capacity: usize,
        timeout_ms: i64,
        count: *mut usize,
    ) -> aieng_status;
    pub fn aieng_events_clear(events: *mut aieng_event) -> aieng_status;
    pub fn aieng_event_fd(engine: *mut aieng_engine, fd: *mut ::core::ffi::c_int) -> aieng_status;
    pub fn aieng_tokenize(
        engine: *mut aieng_engine,
        text: *const ::core::ffi::c_char,
        text_length: usize,
        flags: u32,
        token_ids: *mut u32,
        capacity: usize,
        count: *mut usize,
    ) -> aieng_status;
    pub fn aieng_detokenize(
        engine: *mut aieng_engine,
        token_ids: *const u32,
        token_count: usize,
        flags: u32,
        text: *mut ::core::ffi::c_char,
        capacity: usize,
        text_length: *mut usize,
    ) -> aieng_status;
    pub fn aieng_render(
        engine: *mut aieng_engine,
        request: *const aieng_request,
        text: *mut ::core::ffi::c_char,
        capacity: usize,
        text_length: *mut usize,
    ) -> aieng_status;
    pub fn aieng_metrics_read(engine: *mut aieng_engine, metrics: *mut aieng_metrics) -> aieng_status;
    pub fn aieng_metrics_text(
        engine: *mut aieng_engine,
        text: *mut ::core::ffi::c_char,
        capacity: usize,
        text_length: *mut usize,
    ) -> aieng_status;
}
