//! Several nodes, each a process of its own, that meet over the network.

mod access;
mod audit;
mod bad_input;
mod bulk;
mod crash;
mod document;
mod endings;
mod find;
mod forward;
mod guides;
mod harness;
mod hostile;
mod hub;
mod lab_silence;
mod links;
mod links_lab;
mod netcheck;
mod raw;
mod readme;
mod relay;
mod relay_own;
mod restart;
mod seat;
mod shell;
mod tickets;
mod work;
