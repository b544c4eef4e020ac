//! Three concentrators, three members of etcd and real clients; what can go wrong with them, and how to see that it did no
//! harm.

pub mod canary;
pub mod clients;
pub mod cost;
pub mod coverage;
pub mod etcd;
pub mod faults;
pub mod inner;
pub mod inspect;
pub mod load;
pub mod node;
pub mod packet;
pub mod pcap;
pub mod relay;
pub mod report;
pub mod scene;
pub mod trial;
pub mod unique;
pub mod watcher;
pub mod world;
