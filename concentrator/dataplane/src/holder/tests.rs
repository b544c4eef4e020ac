//! A holder on loopback: its workers, their commands, its sockets.

#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

fn holder(workers: u8) -> Holder {
    Holder::open(Config {
        listen: vec![[127, 0, 0, 1].into()],
        ike_port: 0,
        nat_port: 0,
        workers,
        raw_esp: false,
        ..Config::default()
    })
    .unwrap()
}

#[test]
fn many_commands_at_once_are_all_obeyed() {
    let holder = holder(1);
    let worker = holder.start_worker(0, Box::new(|_| {})).unwrap();
    let (hold, held) = channel::<()>();
    let (answer, answered) = channel();
    worker
        .send(WorkerCommand::ReadStats(Box::new(move |_| {
            held.recv().unwrap_or_default()
        })))
        .unwrap();
    let ask = |answer: std::sync::mpsc::Sender<_>| {
        worker.send(WorkerCommand::ReadCounters(Box::new(move |c| {
            drop(answer.send(c))
        })))
    };
    // Two may wait already: the one that is held, and nothing is known of when it was taken.
    for spi_in in 0..worker::MAX_COMMANDS as u32 - 2 {
        worker.send(WorkerCommand::Remove { spi_in }).unwrap();
    }
    ask(answer.clone()).unwrap();
    let refused = (0..2).map(|_| ask(answer.clone())).find_map(Result::err);
    assert_eq!(refused, Some(worker::SendError::Full));
    drop(hold);
    assert!(answered.recv_timeout(PATIENCE).is_ok());
    ask(answer).unwrap();
}

#[test]
fn a_worker_runs_once_and_starts_again_from_the_news_of_its_death() {
    let holder = Arc::new(holder(2));
    assert!(matches!(
        holder.start_worker(2, Box::new(|_| {})),
        Err(StartError::Unknown(2))
    ));
    let (events, news) = channel();
    let again = Arc::clone(&holder);
    let on_event = move |event| {
        if matches!(event, WorkerEvent::Died { worker: 1, .. }) {
            events
                .send(again.start_worker(1, Box::new(|_| {})).is_ok())
                .unwrap_or_default();
        }
    };
    let worker = holder.start_worker(1, Box::new(on_event)).unwrap();
    assert!(matches!(
        holder.start_worker(1, Box::new(|_| {})),
        Err(StartError::Running(1))
    ));
    worker.send(WorkerCommand::Panic).unwrap();
    assert_eq!(news.recv_timeout(PATIENCE), Ok(true));
    holder.stop_worker(1);
    holder.stop_worker(1);
    assert!(holder.start_worker(1, Box::new(|_| {})).is_ok());
}

#[test]
fn sockets_are_given_for_every_address_and_nonsense_is_refused() {
    let local: Vec<bool> = holder(1).ike_sockets().unwrap().iter().map(|s| s.nat).collect();
    assert_eq!(local, [false, true]);
    for workers in [0, 9] {
        assert!(matches!(
            Holder::open(Config {
                workers,
                ..Config::default()
            }),
            Err(OpenError::Config(_))
        ));
    }
    assert!(matches!(
        Holder::open(Config::default()),
        Err(OpenError::Config(_))
    ));
    let netns = Some("../nonsense".into());
    assert!(matches!(
        Holder::open(Config {
            netns,
            ..Config::default()
        }),
        Err(OpenError::System(_))
    ));
    let every = Config {
        listen: vec![[0; 4].into()],
        ike_port: 0,
        nat_port: 0,
        raw_esp: false,
        ..Config::default()
    };
    let holder = Holder::open(every).unwrap();
    assert!(
        holder
            .ike_sockets()
            .unwrap()
            .iter()
            .all(|s| !s.local.ip().is_unspecified())
    );
}
