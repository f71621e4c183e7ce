//! Exchanges of the witness: an operator's wish, what is noted and forsworn, and what the witness that was left is told. By whose assent the
//! register is continued, and where, the product's own core decides.

use std::collections::BTreeSet;

use replication::Fork;
use replication::view::evidence::Resume;
use replication::view::{
    Assent, Departure, Entry, Exchange, Heir, Incarnation, Known, Outcome, Place, PlaceKind, Register, Wish, Word,
};

use super::Play;
use super::side::{Course, Side};
use crate::action::Sight;
use crate::broken::Break;
use crate::name::{HostId, Life};
use crate::shared::Shared;
use crate::witness::{Desks, Part, Site};
use crate::world::{Errand, Exchanging, Phase, Replica, Role, Stance};

impl Play<'_> {
    /// `outlast ctl witness set` on the primary. The note of it is durable when the backup is asked.
    pub(super) fn propose(&mut self, host: HostId, to: Site) -> Option<()> {
        let node = self.world.node(host)?;
        let primary = self.world.primary(host)?;
        let is_between = primary.session.is_some_and(|session| session.phase < Phase::Following);
        let is_busy = primary.is_frozen || primary.is_stopping || primary.exchanging.is_some() || is_between;
        let may = node.register.may_exchange(&Assent::Awaited) || self.breaks(Break::ExchangeInDoubt);
        if is_busy || node.pending.is_some() || node.register.exchange().is_some() || to == node.desks.own || !may {
            return None;
        }
        let session = primary.session;
        let heir = self.heir(host, to)?;
        let part = Part { exchange: Exchange { heir, assent: Assent::Awaited }, site: to };
        self.take_part(host, part.clone())?;
        let Some(session) = session else {
            self.world.primary_mut(host)?.exchanging = Some(Exchanging::Moving);
            return Some(());
        };
        let is_unawaited = self.breaks(Break::ForswearUnawaited);
        let exchanging = if is_unawaited { Exchanging::Moving } else { Exchanging::Forswearing };
        self.world.primary_mut(host)?.exchanging = Some(exchanging);
        // Its connection may be lost already.
        let backup = session.join.backup;
        let is_there = self.world.is_alive(backup);
        if let Some(backup) = self.world.backup_mut(backup.host).filter(|_| is_there)
            && matches!(backup.copy, Replica::Whole { join, stance: Stance::Following, .. } if join == session.join)
        {
            backup.proposal = Some(Shared::new(part));
        }
        Some(())
    }

    /// What is to continue the register of the process on `host`.
    fn heir(&mut self, host: HostId, to: Site) -> Option<Heir> {
        self.spend(|spent| &mut spent.exchanges);
        let (parent, number) = (self.newest_seen(host)?, self.world.spent.exchanges);
        let node = self.world.node(host)?;
        let there = self.world.witness(to);
        if there.is_gone {
            return None;
        }
        let newest = there.chain.last().map(|slot| &*slot.entry);
        let generation = parent.record.generation;
        let mut heir = Heir::new(node.life.heir(number), parent, None, newest).ok()?;
        if let Some(noted) = node.register.exchange() {
            heir = heir.above(noted.heir.generation);
        }
        if self.breaks(Break::GenerationStands) {
            heir.generation = generation;
        }
        Some(heir)
    }

    /// The newest record that was seen on `host`: by its process, or by one before it, which kept it in the state directory.
    fn newest_seen(&self, host: HostId) -> Option<Entry> {
        let register = &self.world.node(host)?.register;
        let known = register.known()?;
        let chains = self.world.witnesses.iter().flat_map(|witness| &witness.chain);
        let noted = || chains.map(|slot| &*slot.entry).find(|entry| Known::of(entry) == known);
        register.newest().or_else(noted).cloned()
    }

    /// The process on `host` forswears its register: it notes that, and appends nothing from then on before that is settled.
    fn take_part(&mut self, host: HostId, part: Part) -> Option<()> {
        let mut side = self.side(host)?;
        side.desks.heir = Some(part.site);
        match self.breaks(Break::ExchangeInDoubt) {
            true => side.register.restore_exchange(part.exchange),
            false => side.register.handle_exchange(part.exchange),
        }
        if !self.breaks(Break::ForswearUnkept) {
            self.write_note(host, side.note());
        }
        self.keep_side(host, side)
    }

    /// The backup on `host` is asked to forswear the register.
    pub(super) fn forswear(&mut self, host: HostId, sight: Sight) -> Option<()> {
        let node = self.world.node(host)?;
        if node.pending.is_some() {
            return None;
        }
        let Role::Backup(backup) = &node.role else { return None };
        let Part { exchange, site } = Part::clone(backup.proposal.as_deref()?);
        let Replica::Whole { join, stance: Stance::Following, .. } = backup.copy else { return None };
        let (theirs, known) = (Known::of(&exchange.heir.parent), node.register.known()?);
        let is_ours = theirs.register == known.register && !theirs.is_before(&known);
        let me = node.life.incarnation();
        let lists_us = |member: &replication::view::Member| (member.join, member.place.id) == (join.session(), me);
        let fits = is_ours && exchange.heir.parent.record.backups.iter().any(lists_us);
        let is_free = node.register.exchange().is_none() && node.register.may_exchange(&exchange.assent);
        // Each side looks for what the other left at the new witness.
        let sees_it = sight == Sight::Same || self.breaks(Break::ExchangeUnmet);
        let is_forsworn = fits && is_free && sees_it;
        self.world.backup_mut(host)?.proposal = None;
        if is_forsworn {
            let site = if sight == Sight::Same { site } else { Site::all().last()? };
            self.take_part(host, Part { exchange, site })?;
        }
        if self.world.session(join).is_some() {
            self.session_mut(join.primary.host)?.forsworn = Some(is_forsworn);
        }
        Some(())
    }

    /// The primary on `host` hears whether its backup has forsworn.
    pub(super) fn hear_forsworn(&mut self, host: HostId) -> Option<()> {
        let is_forsworn = self.session_mut(host)?.forsworn.take()?;
        let primary = self.world.primary_mut(host)?;
        if primary.exchanging == Some(Exchanging::Forswearing) {
            primary.exchanging = Some(if is_forsworn { Exchanging::Moving } else { Exchanging::CallingOff });
        }
        Some(())
    }

    /// Before it asks for the heir the primary on `host` notes that all have forsworn.
    pub(super) fn note_forsworn(&mut self, host: HostId) -> Option<()> {
        let mut side = self.side(host)?;
        let exchange = side.register.exchange()?;
        if exchange.assent != Assent::Awaited {
            return Some(());
        }
        let heir = exchange.heir.register;
        side.register.handle_forsworn(heir);
        if !self.breaks(Break::ForswearUnkept) {
            self.write_note(host, side.note());
        }
        self.keep_side(host, side)
    }

    /// Whether the exchange is called off without a witness, since nobody else has a part in it.
    pub(super) fn abandon(&mut self, host: HostId) -> Option<bool> {
        let mut side = self.side(host)?;
        let heir = side.register.exchange()?.heir.register;
        let is_abandoned = side.register.abandon_exchange(heir);
        side.settle();
        self.keep_side(host, side)?;
        Some(is_abandoned)
    }

    /// The process on `host` tells the witness that it left where the register is continued.
    pub(super) fn depart(&mut self, host: HostId) -> Option<()> {
        let node = self.world.node(host)?;
        let ((site, parent), known) = (node.desks.left?, node.register.known()?);
        let departure =
            Departure { witness: node.desks.own.to_string(), register: known.register, generation: known.generation };
        let attempt = node.life.attempt(self.world.spent.exchanges);
        let desks = Desks { own: site, ..Desks::default() };
        let mut side = Side::new(Register::new(node.register.me().clone(), Some(parent)), desks);
        side.register.handle_wish(Wish::Depart(departure), attempt);
        match side.go_on(&self.world) {
            Course::Decided(Outcome::NoAnswer) => return None,
            Course::Decided(_) => {}
            Course::Appends(site, ask) => {
                let replication::view::Ask::Append { record, .. } = &ask else { return None };
                if self.takes(site, record) {
                    self.write(site, record);
                }
            }
        }
        self.world.node_mut(host)?.desks.left = None;
        Some(())
    }

    /// An operator is told where the register is, and gives the process on `host`, or the next one there, that witness.
    pub(super) fn look_elsewhere(&mut self, host: HostId, departure: &Departure) -> Option<()> {
        let mut side = self.side(host)?;
        side.desks.own = Site::of(&departure.witness)?;
        side.register.handle_other_witness();
        side.is_settled = true;
        self.keep_side(host, side)
    }

    pub(super) fn lose_witness(&mut self, site: Site) -> Option<()> {
        self.spend(|spent| &mut spent.witness_losses);
        let witness = self.world.witness_mut(site);
        (witness.is_gone, witness.late) = (true, None);
        Some(())
    }
}

impl Play<'_> {
    /// An operator has the register continued at `to`, and names every other place of the newest view that is known here as dead. Each is,
    /// for good.
    pub(super) fn override_at(&mut self, host: HostId, to: Site) -> Option<()> {
        match self.world.node(host).map(|node| (&node.role, node.pending.is_some())) {
            Some((_, true)) | Some((Role::Starting, _)) => None,
            Some((Role::Primary(_), _)) => self.override_as_primary(host, to),
            Some((Role::Backup(_), _)) => self.override_as_backup(host, to),
            None => self.override_as_store(host, to),
        }
    }

    fn override_as_primary(&mut self, host: HostId, to: Site) -> Option<()> {
        let primary = self.world.primary(host)?;
        let is_connected = primary.session.is_some() && !primary.is_frozen;
        if is_connected || primary.is_stopping {
            return None;
        }
        self.open_override(host, to, None)?;
        self.world.primary_mut(host)?.exchanging = Some(Exchanging::Moving);
        Some(())
    }

    fn override_as_backup(&mut self, host: HostId, to: Site) -> Option<()> {
        let Replica::Whole { stance: Stance::Claiming, .. } = self.world.backup(host)?.copy else { return None };
        self.open_override(host, to, None)?;
        self.ask(host, Errand::TakeOver)?;
        self.world.node(host)?.pending.as_ref().map(drop)
    }

    fn override_as_store(&mut self, host: HostId, to: Site) -> Option<()> {
        let store = self.world.host(host).store?;
        let has = store.has?;
        let newcomer = self.arrive_on(host)?;
        let (place, observer) = (newcomer.observer.store(store.id), newcomer.observer.clone());
        self.settle_in(newcomer, Role::Starting);
        let dead = self.open_override(host, to, Some(store.id))?;
        let newest = self.newest_seen(host).map(|entry| entry.record);
        let fork = Fork::Mark(self.world.lines.mark(has));
        let mut wish = observer.resume(newest.as_ref(), Resume { store: place, fork, named_dead: BTreeSet::new() });
        // What the operator named stands in for what a lock file proves.
        if let Wish::Resume { dead: proved, .. } = &mut wish {
            proved.extend(dead);
        }
        self.put(host, Errand::Resume, wish)?;
        self.world.node(host)?.pending.as_ref().map(drop)
    }

    /// What the operator named, if the override is noted.
    fn open_override(&mut self, host: HostId, to: Site, store: Option<Incarnation>) -> Option<BTreeSet<Incarnation>> {
        let heir = self.heir(host, to)?;
        let register = &self.world.node(host)?.register;
        let (me, parent) = (register.me().clone(), heir.parent.record.clone());
        let others = register.others(&parent, store);
        let dead: BTreeSet<Incarnation> = others.iter().map(|place| place.id).collect();
        let exchange = Exchange { heir, assent: Assent::Override { dead: dead.clone(), word: Word::default() } };
        let is_true = |place: &Place| self.is_dead(place);
        let mut places = others.iter();
        let is_forgetful = self.breaks(Break::OverrideForgets);
        let is_true = match is_forgetful {
            true => places.next().is_some_and(is_true),
            false => places.all(is_true),
        };
        // Nobody overrides a register for nothing, nor while another place runs the guest, or could, by a record that is not known here.
        let is_own =
            |place: &Place| place.id == me.id || store == Some(place.id) || parent.store.as_ref() == Some(place);
        let is_looked_for = !is_forgetful && !self.breaks(Break::OverrideOutdated);
        let is_alone =
            !is_looked_for || self.world.newest()?.places().all(|place| is_own(place) || self.is_dead(place));
        if !is_true || dead.is_empty() || !is_alone {
            return None;
        }
        self.take_part(host, Part { exchange, site: to })?;
        Some(dead)
    }

    /// Whether a place is gone for good.
    pub(super) fn is_dead(&self, place: &Place) -> bool {
        match place.kind {
            PlaceKind::Process => !self.world.is_alive(Life::of(place.id)),
            PlaceKind::Store => {
                let mut stores = self.world.hosts.iter().filter_map(|host| host.store);
                !stores.any(|store| store.id == place.id && store.has.is_some())
            }
        }
    }
}
