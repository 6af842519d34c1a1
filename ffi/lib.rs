//! C ABI of aieng.
