//! Which machine is a node: what an agent can do whose certificate has expired, or whose state directory is gone.

use super::*;

const SHORT: Duration = Duration::from_secs(3);

#[tokio::test]
async fn an_agent_whose_certificate_expired_joins_again_with_its_key_alone() -> Result<()> {
    let scheduler = Scheduler::start(SHORT).await?;
    let (_keep, dir) = home()?;
    let agent = scheduler.agent("n1", &dir)?;
    agent.connected().await?;
    agent.stop().await?;
    let expired = std::fs::read(dir.join("node.pem"))?;
    tokio::time::sleep(SHORT + Duration::from_secs(1)).await;
    let agent = Agent::start(scheduler.address, "n1", &dir, &scheduler.authority.ca_hash(), "")?;
    agent.connected().await?;
    assert_ne!(std::fs::read(dir.join("node.pem"))?, expired);
    assert_eq!(scheduler.metric("gantry_node_joins_refused")?, 0);
    agent.stop().await
}

#[tokio::test]
async fn an_agent_that_lost_its_state_gets_its_name_back_by_an_operators_word() -> Result<()> {
    let mut scheduler = Scheduler::start(DAY).await?;
    let (_keep, dir) = home()?;
    let agent = scheduler.agent("n1", &dir)?;
    agent.connected().await?;
    agent.stop().await?;
    // The scheduler's memory of it is not what counts.
    scheduler.pause().await?;
    scheduler.resume().await?;
    std::fs::remove_dir_all(&dir)?;
    let agent = scheduler.agent("n1", &dir)?;
    eventually("a refusal", async || Ok(scheduler.metric("gantry_node_joins_refused")? >= 1)).await?;
    assert!(!*agent.control.connected.borrow() && !dir.join("node.pem").exists());
    agent.stop().await?;

    let bound = Token::generate();
    let tokens = Tokens::open(scheduler.dir.path())?;
    tokens.add_for(&bound, Some(DAY), "", Some("n1"), SystemTime::now())?;
    let (address, hash) = (scheduler.address, scheduler.authority.ca_hash());
    let agent = Agent::start(address, "n1", &dir, &hash, &bound.reveal())?;
    agent.connected().await?;
    agent.stop().await
}
