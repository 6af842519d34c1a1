//! The command line of aieng.
#![allow(dead_code)]

mod models;
mod pull;

fn main() {}
