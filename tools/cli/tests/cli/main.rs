//! Black-box tests of the command line. Those that need a model look for it in `$AIENG_HOME/models` and say so when
//! they skip.

mod bad_input;
mod cuda;
mod generation;
mod inspection;
mod parity;
mod serve;
mod support;
mod usage;
