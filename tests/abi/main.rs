//! The C ABI as its users meet it: the header under C and C++ compilers, the shared library's symbols and name, and C
//! programs (tests/c) that link it. A test that needs a model looks for it in `$AIENG_HOME/models`, and says so when it
//! is skipped.

mod header;
mod layout;
mod library;
mod misuse;
mod programs;
mod support;
