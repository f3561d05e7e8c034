//! Transactions that read and write, many at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use trialbay::client::{Client, ClientError, Transaction};
use trialbay_tests::cluster::Cluster;

use super::{program, with_cluster};

const ACCOUNTS: u64 = 8;
const BALANCE: u64 = 100;

fn number(value: &[u8]) -> u64 {
    std::str::from_utf8(value).unwrap().parse().unwrap()
}

fn account(index: u64) -> String {
    format!("account/{}", index % ACCOUNTS)
}

/// Moves `amount` if there is so much. Of an attempt that sees a mix of two moments nothing stays.
async fn transfer(client: &Client, from: u64, to: u64, amount: u64) -> Result<bool, ClientError> {
    client
        .transact(|transaction: Transaction| async move {
            let from_balance = number(&transaction.get(account(from)).await?.unwrap());
            let to_balance = number(&transaction.get(account(to)).await?.unwrap());
            if from_balance < amount || account(from) == account(to) {
                return Ok(false);
            }
            transaction.set(account(from), (from_balance - amount).to_string());
            transaction.set(account(to), (to_balance + amount).to_string());
            Ok(true)
        })
        .await
}

async fn total(client: &Client) -> Result<u64, ClientError> {
    client
        .transact(|transaction: Transaction| async move {
            // Read one by one, so that it is the check at the end that makes them of one moment.
            let mut total = 0;
            for index in 0..ACCOUNTS {
                total += number(&transaction.get(account(index)).await?.unwrap());
            }
            Ok(total)
        })
        .await
}

#[test]
fn money_is_moved_by_many_at_once_and_none_is_made_or_lost() {
    with_cluster(async {
        let cluster = Cluster::start(program(), 3).await;
        let client = cluster.client();
        for index in 0..ACCOUNTS {
            client.set(account(index), BALANCE.to_string()).await.unwrap();
        }
        let stop = Arc::new(AtomicBool::new(false));
        let movers: Vec<_> = (0..6u64)
            .map(|mover| {
                let client = client.clone();
                tokio::spawn(async move {
                    let mut moved = 0;
                    for step in 0..25 {
                        let (from, to) = (mover + step, 3 * mover + 5 * step + 1);
                        moved += u32::from(transfer(&client, from, to, 1 + step % 7).await.unwrap());
                    }
                    moved
                })
            })
            .collect();
        let auditor = {
            let (client, stop) = (client.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut audits = 0;
                while audits == 0 || !stop.load(Ordering::Relaxed) {
                    assert_eq!(total(&client).await.unwrap(), ACCOUNTS * BALANCE);
                    audits += 1;
                }
                audits
            })
        };
        let mut moved = 0;
        for mover in movers {
            moved += mover.await.unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        assert!(moved > 100, "{moved} transfers");
        assert!(auditor.await.unwrap() > 0);
    });
}

#[test]
fn what_depends_on_all_keys_of_a_prefix_is_not_fooled_by_a_new_one() {
    with_cluster(async {
        let cluster = Cluster::start(program(), 3).await;
        let client = cluster.client();
        // Each takes the next free seat of ten; more come than there are.
        let takers: Vec<_> = (0..14)
            .map(|taker| {
                let client = client.clone();
                tokio::spawn(async move {
                    client
                        .transact(|transaction: Transaction| async move {
                            let taken = transaction.entries("seat/").await?.len();
                            if taken < 10 {
                                transaction.set(format!("seat/{taken}"), format!("taker {taker}"));
                            }
                            Ok::<_, ClientError>(taken < 10)
                        })
                        .await
                        .unwrap()
                })
            })
            .collect();
        let mut seated = 0;
        for taker in takers {
            seated += u32::from(taker.await.unwrap());
        }
        assert_eq!(seated, 10);
        let taken = client.transact(|transaction: Transaction| async move { transaction.entries("seat/").await }).await;
        assert_eq!(taken.unwrap().len(), 10);
    });
}
