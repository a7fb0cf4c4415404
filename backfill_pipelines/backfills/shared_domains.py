"""Domains below which, or at which, people who have nothing to do with each other have addresses.

Belongs here: the lists, as data, and the two questions about them. Does not belong here: what a domain is and when two
spellings are one (`company_domains.py`): names are given here as it normalises them.

Neither list can be complete. A free-mail provider that is missing makes a company of strangers; one too many leaves a
company for a person to map: so when in doubt a name is listed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_FREE_MAIL: Final = """
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

_REGISTRIES: Final[Mapping[str, str]] = {
    "ae": "ac co gov mil net org sch",
    "ar": "com edu gob gov int mil net org tur",
    "at": "ac co gv or",
    "au": "asn com edu gov id net org",
    "bd": "ac com edu gov net org",
    "bo": "com edu gob net org",
    "br": "adv art blog com dev eco edu eng gov ind inf jus med mil net org tv",
    "bw": "ac co gov net org",
    "cn": "ac com edu gov mil net org",
    "co": "com edu gov mil net nom org",
    "cr": "ac co ed fi go or sa",
    "cy": "ac com gov ltd net org press",
    "do": "com edu gob gov net org web",
    "ec": "com edu fin gob gov info med net org pro",
    "eg": "com edu eun gov mil name net org sci",
    "es": "com edu gob nom org",
    "fr": "asso com gouv nom prd tm",
    "gh": "com edu gov mil org",
    "gr": "com edu gov net org",
    "gt": "com edu gob ind mil net org",
    "hk": "com edu gov idv net org",
    "hu": "2000 co info org priv sport tm",
    "id": "ac co desa go mil my net or sch web",
    "il": "ac co gov idf k12 muni net org",
    "in": "ac co edu firm gen gov ind mil net nic org res",
    "it": "edu gov",
    "jp": "ac ad co ed go gr lg ne or",
    "ke": "ac co go info me mobi ne or sc",
    "kh": "com edu gov mil net org per",
    "kr": "ac co es go hs kg mil ms ne or pe re sc",
    "kw": "com edu gov net org",
    "lk": "ac assn com edu gov ltd net org sch",
    "mt": "com edu net org",
    "mx": "com edu gob net org",
    "my": "biz com edu gov mil name net org",
    "mz": "ac adv co edu gov mil net org",
    "na": "co com org",
    "ng": "com edu gov i mil mobi name net org sch",
    "np": "com coop edu gov info mil name net org",
    "nz": "ac co cri geek gen govt health iwi kiwi maori mil net org parliament school",
    "pa": "abo ac com edu gob ing med net nom org sld",
    "pe": "com edu gob mil net nom org",
    "ph": "com edu gov i mil net ngo org",
    "pk": "ac com edu fam gob gok gon gop gos gov net org web",
    "pl": "biz com edu gov info mil net org",
    "pr": "com edu gov net org",
    "pt": "com edu gov int net nome org publ",
    "py": "com coop edu gov mil net org",
    "qa": "com edu gov mil name net org sch",
    "ro": "arts com firm info nom nt org rec store tm www",
    "rs": "ac co edu gov in org",
    "ru": "ac com edu gov int mil msk net nov org pp spb",
    "sa": "com edu gov med net org pub sch",
    "sg": "com edu gov net org per",
    "sv": "com edu gob org red",
    "th": "ac co go in mi net or",
    "tr": "av bbs bel biz com dr edu gen gov info k12 kep mil name net org pol tel tv web",
    "tw": "club com ebiz edu game gov idv mil net org",
    "tz": "ac co go hotel info me mil mobi ne or sc tv",
    "ua": "com edu gov in kiev kyiv lviv net od odessa org pp",
    "ug": "ac co com go ne or org sc",
    "uk": "ac co gov ltd me net nhs org plc police sch",
    "uy": "com edu gub mil net org",
    "ve": "co com edu gob gov info mil net org web",
    "vn": "ac biz com edu gov health info int name net org pro",
    "za": "ac agric alt co edu gov law mil net ngo nic nom org school web",
    "zm": "ac biz co com edu gov info mil net org sch",
    "zw": "ac co gov mil org",
}
"""What stands before a country's top level without being anybody's."""

_HOSTS: Final = """
ae.org br.com cn.com co.com co.nl com.de com.se de.com eu.com eu.org gb.net gr.com hu.net jp.net jpn.com mex.com ru.com
sa.com se.net uk.com uk.net us.com us.org za.com
000webhostapp.com azurewebsites.net bitbucket.io blogspot.co.uk blogspot.com blogspot.de blogspot.fr bubbleapps.io
cloudapp.net cloudfront.net deno.dev dyndns.org elasticbeanstalk.com firebaseapp.com fly.dev framer.app framer.website
ghost.io github.io githubpreview.dev gitlab.io glitch.me herokuapp.com lovable.app my.canva.site myshopify.com
netlify.app ngrok.io notion.site on.aws onrender.com pages.dev readthedocs.io repl.co replit.app replit.dev run.app
square.site streamlit.app surge.sh vercel.app web.app webflow.io weebly.com wixsite.com wordpress.com workers.dev
"""
"""Registries below somebody's own name, and hosts that give everyone a name below theirs."""

FREE_MAIL: Final = frozenset(_FREE_MAIL.split())
_PUBLIC_SUFFIXES: Final = frozenset(_HOSTS.split()) | {
    f"{second}.{country}" for country, seconds in _REGISTRIES.items() for second in seconds.split()
}


def is_free_mail(domain: str) -> bool:
    """Whether anybody can have an address at this domain."""
    return domain in FREE_MAIL


def is_public_suffix(domain: str) -> bool:
    """Whether names directly below this domain belong to different owners; so do those below any top level."""
    return "." not in domain or domain in _PUBLIC_SUFFIXES
